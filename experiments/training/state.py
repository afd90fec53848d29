"""Where a run stands: its arrays on the device, itself on the host."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.checkpoints import START, Checkpoints, Moment, Position
from experiments.config import Config, epochs_before
from experiments.data.task import Task
from experiments.folder_lock import Held
from experiments.run_folder import Rows
from experiments.training.fixing import Choices, choices_to_compare
from experiments.training.networks import choices_as_data
from experiments.training.optimizer import optimizer
from experiments.training.program import Params, Program, compile_key
from smartmixed_jax import SelectionLogits

TRAINED = ("weights", "selection")


class Sums(NamedTuple):
    """Of the steps of an epoch, [steps] each: those done, and behind them the epoch before.

    Attributes:
        loss: the mean loss.
        losses, scores: sums over the counted examples.
        examples: their number.
    """

    loss: jax.Array
    losses: jax.Array
    scores: jax.Array
    examples: jax.Array


class TrainState(NamedTuple):
    """What training changes and a checkpoint holds.

    Attributes:
        params: the current parameters.
        opt_state: of `optimizer`.
        sums: of the epoch under way.
        before: the choices at its beginning, where they are compared: `choices_to_compare`.
        best_params: those with the lowest validation loss of the phase so far.
        best_loss: that loss, float32 [].
        best_epoch: its epoch within the phase, from 1, int32 [].
    """

    params: Params
    opt_state: optax.OptState
    sums: Sums
    before: Choices
    best_params: Params
    best_loss: jax.Array
    best_epoch: jax.Array


class PhaseState(NamedTuple):
    """A phase in training, of one run or, with [R, ...] arrays, of R runs at once.

    Attributes:
        program: static.
        state: what training changes.
        non_trainable: fixed choices and what else of the network has no gradient: data, so that
            all seeds and controls share one program.
    """

    program: Program
    state: TrainState
    non_trainable: nnx.State

    @property
    def selected(self) -> Params:
        """The parameters that are tested and carried on, as `select_epoch` says."""
        if self.program.config.select_epoch == "last":
            return self.state.params
        return self.state.best_params

    def model(self) -> Any:
        """The network with those parameters."""
        return self.program.model(self.selected, self.non_trainable)


def start_phase(model: nnx.Module, config: Config, task: Task, phase_index: int) -> PhaseState:
    """A phase of one run at its beginning, with a fresh optimiser."""
    graphdef, params, non_trainable = split_model(model)
    steps = config.steps_per_epoch or math.ceil(task.train_size / config.batch_size)
    program = Program(
        graphdef,
        compile_key(config),
        phase_index,
        steps,
        task.objective,
        task.scale,
        task.seeded,
        has_convolutions=any(isinstance(m, nnx.Conv) for _, m in nnx.iter_modules(model)),
    )
    best = jax.tree.map(_copy, params)
    opt_state = jax.tree.map(_copy, optimizer(program).init(trained(params)))
    sums = Sums(jnp.zeros(steps), jnp.zeros(steps), jnp.zeros(steps), jnp.zeros(steps, jnp.int32))
    before = choices_to_compare(config, params["selection"])
    state = TrainState(params, opt_state, sums, before, best, jnp.float32(jnp.inf), jnp.int32(0))
    return PhaseState(program, state, non_trainable)


def _copy(array: jax.Array) -> jax.Array:
    """A buffer of its own, because a state is donated; of its dtype even where that was weak, or
    the second call of a step would be compiled again."""
    return jnp.array(array, array.dtype)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Params, nnx.State]:
    """A network in its parts: static, what a checkpoint holds, and the rest, with the choices."""
    groups = (SelectionLogits, nnx.Param, nnx.BatchStat, ...)
    parts: Any = nnx.split(choices_as_data(model), *groups)
    graphdef, selection, weights, statistics, non_trainable = parts
    params = {"weights": weights, "selection": selection, "statistics": statistics}
    return graphdef, params, non_trainable


def trained(params: Params) -> Params:
    """The parameters that have gradients."""
    return {name: params[name] for name in TRAINED}


@dataclasses.dataclass(eq=False)
class Run:
    """One run on the host.

    Attributes:
        config, task: what it trains.
        held: its folder, which this process holds.
        checkpoints: those in its folder.
        rows: of metrics.jsonl.
        position: where it stands.
        logits: those at the switch, [N, K] by the path of the layer.
        fixed_layers: in phase 2, the record of every layer's choices for the rows of metrics.
    """

    config: Config
    task: Task
    held: Held
    checkpoints: Checkpoints
    rows: Rows
    position: Position = START
    logits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fixed_layers: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.held.folder

    @property
    def epochs_done(self) -> int:
        """Of all phases."""
        return epochs_before(self.config, self.position.phase_index) + self.position.phase_epoch

    @property
    def settings(self) -> Config:
        """The config, its learning rates halved with every retry."""
        rates = ("learning_rate", "logit_learning_rate")
        by = 0.5 ** len(self.position.retries)
        return dataclasses.replace(
            self.config, **{name: by * getattr(self.config, name) for name in rates}
        )

    def save(self, state: TrainState) -> None:
        """A checkpoint of where it stands; errors as `Checkpoints.save`, and `Held.require`."""
        self.held.require()
        moment = Moment(self.epochs_done, self.position.phase_step)
        self.checkpoints.save(moment, state, self.position, self.logits)


def open_run(config: Config, task: Task, held: Held, checkpoints: Checkpoints) -> Run:
    """A run at its beginning, in a folder that this process holds."""
    return Run(config, task, held, checkpoints, Rows(held.folder))

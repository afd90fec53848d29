"""Where a run stands: its arrays on the device, itself on the host."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.checkpoints import START, Checkpoints, Position
from experiments.config import Config, epochs_before
from experiments.data.task import Task
from experiments.training.networks import choices_as_data
from experiments.training.optimizer import optimizer
from experiments.training.program import Params, Program, compile_key
from smartmixed_jax import SelectionLogits

TRAINED = ("weights", "selection")


class TrainState(NamedTuple):
    """What training changes and a checkpoint holds.

    Attributes:
        params: the current parameters.
        opt_state: of `optimizer`.
        best_params: those with the lowest validation loss of the phase so far.
        best_loss: that loss, float32 [].
        best_epoch: its epoch within the phase, from 1, int32 [].
    """

    params: Params
    opt_state: optax.OptState
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
    steps = config.steps_per_epoch or math.ceil(
        len(task.splits["train"].labels) / config.batch_size
    )
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
    best = jax.tree.map(jnp.copy, params)  # the state is donated: no buffer may appear twice
    opt_state = optimizer(program).init(trained(params))
    state = TrainState(params, opt_state, best, jnp.float32(jnp.inf), jnp.int32(0))
    return PhaseState(program, state, non_trainable)


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
        folder: where its files are.
        checkpoints: those in its folder.
        position: where it stands.
        fixed_layers: in phase 2, the record of every layer's choices for the rows of metrics.
    """

    config: Config
    task: Task
    folder: Path
    checkpoints: Checkpoints
    position: Position = START
    fixed_layers: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        """Of all phases."""
        return epochs_before(self.config, self.position.phase_index) + self.position.phase_epoch

"""A phase as a program: the static part that one compilation serves, and the state it trains."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.config import Config, Phase, epochs_before, phases
from experiments.networks import choices_as_data
from experiments.tasks import Task
from smartmixed_jax import SelectionLogits

Params = dict[str, nnx.State]
"""`weights` and `selection` (the logits), the two groups of the optimiser, and `statistics`,
running means that the forward pass updates."""

TRAINED = ("weights", "selection")


class State(NamedTuple):
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


@dataclasses.dataclass(frozen=True)
class Program:
    """The static part of a phase: equal programs share one compilation.

    Attributes:
        graphdef: of the model.
        config: with the fields reset that do not change the computation.
        phase: index into `phases(config)`.
        steps: steps per epoch.
        scale: inputs are divided by it.
        runs: R, how many runs train at once. If R > 1, every array of theirs has R in front.
    """

    graphdef: nnx.GraphDef
    config: Config
    phase: int
    steps: int
    scale: float
    runs: int = 1

    @property
    def spec(self) -> Phase:
        return phases(self.config)[self.phase]

    def model(self, params: Params, rest: nnx.State, temperature: Any = None) -> nnx.Module:
        """The model, the temperature of its selective layers set."""
        # Copies, because batch statistics are updated under differentiation.
        parts = (params["selection"], params["weights"], params["statistics"], rest)
        model = nnx.merge(self.graphdef, *parts, copy=True)
        if temperature is None:
            return model
        return nnx.view(model, temperature=temperature, raise_if_not_found=False)


def neutral(config: Config) -> Config:
    """The config with every field reset that does not change the computation of a phase.

    Runs with equal neutral configs, and the same data directory, can train as one program.
    """
    config = dataclasses.replace(
        config,
        preset="recommended",
        seed=0,
        data_dir=None,
        run_dir=None,
        checkpoint_seconds=0.0,
        choices="learned",
        carry_weights=True,
        carry_moments=False,
    )
    if config.method.startswith("uniform:"):
        return dataclasses.replace(config, method="uniform:" + config.activation_pool.names[0])
    return config


def start_phase(
    model: nnx.Module, config: Config, task: Task, phase: int
) -> tuple[Program, State, nnx.State]:
    """A phase's program, its state with a fresh optimiser, and what is never trained.

    Fixed choices are among the latter: data, so that all seeds and controls share one program.
    """
    groups = (SelectionLogits, nnx.Param, nnx.BatchStat, ...)
    parts: Any = nnx.split(choices_as_data(model), *groups)
    graphdef, selection, weights, statistics, rest = parts
    steps = config.steps_per_epoch or math.ceil(
        len(task.splits["train"].labels) / config.batch_size
    )
    program = Program(graphdef, neutral(config), phase, steps, task.scale)
    params = {"weights": weights, "selection": selection, "statistics": statistics}
    best = jax.tree.map(jnp.copy, params)  # the state is donated: no buffer may appear twice
    state = State(
        params, optimizer(program).init(trained(params)), best, jnp.float32(jnp.inf), jnp.int32(0)
    )
    return program, state, rest


def trained(params: Params) -> Params:
    """The parameters that have gradients."""
    return {name: params[name] for name in TRAINED}


def carry_moments(state: State, new: State) -> State:
    """The new phase's state with the optimiser's moments of the weights, not the logits'."""

    def keep(old: Any, fresh: Any) -> Any:
        return fresh if isinstance(fresh, optax.ScaleByScheduleState) else old

    groups, fresh = (own.opt_state[-1].inner_states for own in (state, new))
    weights = jax.tree.map(
        keep,
        groups["weights"],
        fresh["weights"],
        is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState),
    )
    carried = optax.MultiTransformState({**fresh, "weights": weights})
    return new._replace(opt_state=(*new.opt_state[:-1], carried))


def selected(program: Program, state: State) -> Params:
    """The parameters of a phase that are tested and carried on."""
    return state.params if program.config.select_epoch == "last" else state.best_params


def stack(trees: Sequence[Any]) -> Any:
    """The runs' trees as one with R in front of every leaf; a single tree as it is."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, runs: int) -> list[Any]:
    """The trees that `stack` took, on the host; a single one as it is."""
    if runs == 1:
        return [tree]
    tree = jax.device_get(tree)
    leaves, structure = jax.tree.flatten(tree)
    return [jax.tree.unflatten(structure, [leaf[run] for leaf in leaves]) for run in range(runs)]


def learning_rate(program: Program, step: jax.Array | int) -> jax.Array:
    """The weights' learning rate at a step of the phase."""
    config = program.config
    before = epochs_before(config, program.phase) * program.steps
    if config.schedule == "constant":
        rate = jnp.float32(config.learning_rate)
    else:
        total, offset = program.spec.epochs, 0
        if config.schedule == "cosine":
            total, offset = epochs_before(config, len(phases(config))), before
        cosine = optax.cosine_decay_schedule(config.learning_rate, total * program.steps)
        rate = cosine(step + offset)
    if not config.warmup_steps:
        return rate
    return rate * jnp.minimum((before + step + 1) / config.warmup_steps, 1.0)


def temperature(program: Program, step: jax.Array | int) -> jax.Array:
    """τ at a step of phase 1: linear from `temperature` to `final_temperature`."""
    config = program.config
    last = max(program.spec.epochs * program.steps - 1, 1)
    fraction = jnp.minimum(step / last, 1.0)
    return config.temperature + fraction * (config.final_temperature - config.temperature)


def optimizer(program: Program) -> optax.GradientTransformation:
    """Weights and logits as two groups behind one clip over everything."""
    config = program.config
    groups = {
        "weights": _weights_optimizer(config, functools.partial(learning_rate, program)),
        "selection": optax.adam(config.logit_learning_rate),
    }
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clip, optax.multi_transform(groups, {name: name for name in groups}))


def _weights_optimizer(config: Config, rate: optax.Schedule) -> optax.GradientTransformation:
    if config.optimizer == "sgd":
        rule = optax.sgd(rate, momentum=0.9, nesterov=True)
        if not config.weight_decay:
            return rule
        return optax.chain(optax.add_decayed_weights(config.weight_decay, _kernels), rule)
    if not config.weight_decay:
        return optax.adam(rate)
    return optax.adamw(rate, weight_decay=config.weight_decay, mask=_kernels)


def _kernels(params: Params) -> Any:
    """True for kernels and embeddings, False for biases and the scales of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

"""One training loop for every phase: pure, compiled functions of a state.

An epoch is one `lax.scan` over data that lives on the device, and validation is part of the
same program. All randomness is folded from the run's seed, the phase and the step, so a run can
stop after any epoch and go on with the same numbers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.config import Config, Phase, epochs_before, phases
from experiments.tasks import Split, Task
from smartmixed_jax import (
    MLP,
    ActivationPool,
    FunctionTable,
    MixedActivation,
    SelectionLogits,
    SelectiveActivation,
    fix_choices,
)
from smartmixed_jax.models import ActivationFactory, uniform
from smartmixed_jax.pools import Activation

Params = dict[str, nnx.State]
"""`weights` and `selection` (the logits): the two groups of the optimiser."""

# Purposes of a random key, folded into the seed's key in this order.
INIT, BATCHES, SELECTION, EVALUATION, SWITCH = range(5)


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
    """

    graphdef: nnx.GraphDef
    config: Config
    phase: int
    steps: int
    scale: float

    @property
    def spec(self) -> Phase:
        return phases(self.config)[self.phase]

    def model(self, params: Params, rest: nnx.State, temperature: Any = None) -> nnx.Module:
        """The model, the temperature of its selective layers set."""
        model = nnx.merge(self.graphdef, params["selection"], params["weights"], rest)
        if temperature is None:
            return model
        return nnx.view(model, temperature=temperature, raise_if_not_found=False)


def make_key(seed: jax.Array | int, phase: jax.Array | int, purpose: int) -> jax.Array:
    """The root of a purpose's randomness in one phase."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), phase), purpose)


# Models and the switch between them


@dataclasses.dataclass(frozen=True)
class Clamped:
    """function clipped to [−limit, limit]: the clamp of the published code."""

    function: Activation
    limit: float

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.clip(self.function(x), -self.limit, self.limit)


def build_model(config: Config, task: Task, phase: int = 0) -> MLP:
    """The network of a method, freshly initialised for a phase; equal seeds give equal weights."""
    rngs = nnx.Rngs(params=make_key(config.seed, phase, INIT))
    return MLP(
        task.in_features,
        config.widths,
        task.out_features,
        activation=_activation(config),
        linear=_torch_linear if config.initialization == "torch" else _normal_linear,
        rngs=rngs,
    )


def _activation(config: Config) -> ActivationFactory:
    pool = config.activation_pool
    if config.method.startswith("uniform:"):
        return uniform(pool.functions[pool.index(config.method.removeprefix("uniform:"))])
    if config.clamp:
        pool = ActivationPool(
            (name, Clamped(function, config.clamp))
            for name, function in zip(pool.names, pool.functions, strict=True)
        )
    return functools.partial(SelectiveActivation, pool=pool, temperature=config.temperature)


_normal_linear = functools.partial(
    nnx.Linear, kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
)


def _torch_linear(din: int, dout: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """PyTorch's default: kernel and bias from U(−1/√din, 1/√din)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        bound = 1 / math.sqrt(din)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(din, dout, kernel_init=init, bias_init=init, rngs=rngs)


def switch(model: MLP, config: Config, task: Task) -> MLP:
    """Phase 1's model → phase 2's: the choices fixed, the weights carried or new."""
    fixed = fix_choices(model)
    rng = np.random.default_rng([config.seed, SWITCH])
    activation: Any
    for activation in fixed.activations:
        # The unclamped pool: the published code clamps in phase 1 only.
        choices = _control(config.choices, np.asarray(activation.table.choices), config, rng)
        activation.table = FunctionTable(config.activation_pool, choices)
    if not config.carry_weights:
        new = build_model(config, task, phase=1)
        for layer, fresh in zip(fixed.layers, new.layers, strict=True):
            nnx.update(layer, nnx.state(fresh))
    return fixed


def _control(
    kind: str, choices: np.ndarray, config: Config, rng: np.random.Generator
) -> np.ndarray:
    """The learned choices [N] of one layer, or what a control puts in their place."""
    if kind == "shuffled":
        return rng.permutation(choices)
    if kind == "random":
        return rng.integers(len(config.activation_pool), size=choices.shape)
    if kind == "majority":
        return np.full_like(choices, np.argmax(np.bincount(choices)))
    return choices


def mixed_model(config: Config, task: Task, choices: list[list[int]]) -> MLP:
    """A phase-2 network with given choices per layer, to receive a checkpoint's weights."""
    model = build_model(dataclasses.replace(config, clamp=0.0), task)
    pool = config.activation_pool
    model.activations = nnx.List([MixedActivation(FunctionTable(pool, layer)) for layer in choices])
    return model


# The state of a phase


def start_phase(
    model: MLP, config: Config, task: Task, phase: int
) -> tuple[Program, State, nnx.State]:
    """A phase's program, its state with a fresh optimiser, and what is never trained."""
    parts: Any = nnx.split(model, SelectionLogits, nnx.Param, ...)
    graphdef, selection, weights, rest = parts
    neutral = dataclasses.replace(
        config, seed=0, data_dir=None, run_dir=None, checkpoint_seconds=0.0, choices="learned"
    )
    if config.method.startswith("uniform:"):
        neutral = dataclasses.replace(neutral, method="uniform:" + config.activation_pool.names[0])
    steps = config.steps_per_epoch or math.ceil(
        len(task.splits["train"].labels) / config.batch_size
    )
    program = Program(graphdef, neutral, phase, steps, task.scale)
    params = {"weights": weights, "selection": selection}
    best = jax.tree.map(jnp.copy, params)  # the state is donated: no buffer may appear twice
    state = State(params, optimizer(program).init(params), best, jnp.float32(jnp.inf), jnp.int32(0))
    return program, state, rest


def learning_rate(program: Program, step: jax.Array | int) -> jax.Array:
    """The weights' learning rate at a step of the phase."""
    config = program.config
    if config.schedule == "constant":
        return jnp.float32(config.learning_rate)
    total, offset = program.spec.epochs, 0
    if config.schedule == "cosine":
        total = epochs_before(config, len(phases(config)))
        offset = epochs_before(config, program.phase)
    cosine = optax.cosine_decay_schedule(config.learning_rate, total * program.steps)
    return cosine(step + offset * program.steps)


def temperature(program: Program, step: jax.Array | int) -> jax.Array:
    """τ at a step of phase 1: linear from `temperature` to `final_temperature`."""
    config = program.config
    last = max(program.spec.epochs * program.steps - 1, 1)
    fraction = jnp.minimum(step / last, 1.0)
    return config.temperature + fraction * (config.final_temperature - config.temperature)


def optimizer(program: Program) -> optax.GradientTransformation:
    """Adam in two groups behind one clip over everything."""
    config = program.config
    groups = {
        "weights": optax.adam(functools.partial(learning_rate, program)),
        "selection": optax.adam(config.logit_learning_rate),
    }
    adam = optax.multi_transform(groups, {name: name for name in groups})
    return optax.chain(optax.clip_by_global_norm(config.clip), adam) if config.clip else adam


# Losses


def losses_and_scores(
    config: Config, outputs: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Per example: the loss, and whether it is right (classes) or the squared error (values).

    Args:
        outputs: [B, out_features].
        labels: int32 [B], or values [B, 1].

    Returns:
        losses [B] and scores [B], float32.
    """
    outputs = outputs.astype(jnp.float32)
    if config.is_regression:
        errors = jnp.square(outputs - labels)[:, 0]
        return errors, errors
    right = (jnp.argmax(outputs, -1) == labels).astype(jnp.float32)
    if config.double_softmax:
        outputs = jax.nn.softmax(outputs)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels), right


def _apply(program: Program, model: Any, inputs: jax.Array, key: jax.Array) -> jax.Array:
    return model(inputs.astype(jnp.float32) / program.scale, rngs=nnx.Rngs(selection=key))


# An epoch


class Draws(NamedTuple):
    """What is random in one epoch.

    Attributes:
        indices: int32 [steps, batch] into the training data; −1 pads the last short batch.
        noise: a key per step, [steps].
        evaluation: the key of the validation.
    """

    indices: jax.Array
    noise: jax.Array
    evaluation: jax.Array


@functools.partial(jax.jit, static_argnames=("size", "batch", "steps", "replacement"))
def _draw(
    seed: jax.Array,
    phase: jax.Array,
    epoch: jax.Array,
    first_epoch: jax.Array,
    *,
    size: int,
    batch: int,
    steps: int,
    replacement: bool,
) -> Draws:
    # Phase 0's key in every phase: all methods of a comparison see the same batches.
    key = jax.random.fold_in(make_key(seed, 0, BATCHES), first_epoch + epoch)
    if replacement:
        indices = jax.random.randint(key, (steps, batch), 0, size)
    else:
        order = jax.random.permutation(key, size)
        padded = jnp.pad(order, (0, steps * batch - size), constant_values=-1)
        indices = padded.reshape(steps, batch)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    noise = fold(make_key(seed, phase, SELECTION), epoch * steps + jnp.arange(steps))
    evaluation = jax.random.fold_in(make_key(seed, phase, EVALUATION), epoch)
    return Draws(indices, noise, evaluation)


def draw(program: Program, seed: int, epoch: int, size: int) -> Draws:
    """The batches and keys of an epoch of the program's phase.

    Apart from `run_epoch`, because the bits of a generator take longer to compile than a small
    network, and this way all methods share one compilation of them.
    """
    return _draw(
        jnp.uint32(seed),
        jnp.int32(program.phase),
        jnp.int32(epoch),
        jnp.int32(epochs_before(program.config, program.phase)),
        size=size,
        batch=program.config.batch_size,
        steps=program.steps,
        replacement=bool(program.config.steps_per_epoch),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_epoch(
    program: Program,
    state: State,
    rest: nnx.State,
    train: Split,
    validation: Split,
    draws: Draws,
    epoch: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """Trains for one epoch and validates; one compiled program per phase.

    Args:
        program: static.
        state: donated.
        rest: what is never trained.
        train, validation: data on the device.
        draws: of this epoch.
        epoch: within the phase, from 0, int32 [].

    Returns:
        The next state, and `step_losses` [steps], `train_loss`, `train_score`,
        `validation_loss`, `validation_score`, `temperature`, `learning_rate` [].
    """
    config = program.config
    transform = optimizer(program)
    first = epoch * program.steps

    def loss(
        params: Params, step: jax.Array, index: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        mask = index >= 0
        model = program.model(params, rest, temperature(program, step))
        inputs, labels = train.inputs[index], train.labels[index]
        outputs = _apply(program, model, inputs, key)
        losses, scores = losses_and_scores(config, outputs, labels)
        count = jnp.sum(mask)
        total = jnp.sum(jnp.where(mask, losses, 0))
        return total / count, (total, jnp.sum(jnp.where(mask, scores, 0)), count)

    def train_step(carry: tuple[Params, optax.OptState], inputs: tuple[jax.Array, ...]):
        params, opt_state = carry
        (value, sums), gradients = jax.value_and_grad(loss, has_aux=True)(params, *inputs)
        updates, opt_state = transform.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), (value, sums)

    steps = first + jnp.arange(program.steps)
    (params, opt_state), (step_losses, sums) = jax.lax.scan(
        train_step, (state.params, state.opt_state), (steps, draws.indices, draws.noise)
    )
    total, score, count = (jnp.sum(part) for part in sums)
    last_step = first + program.steps - 1
    model = program.model(params, rest, temperature(program, last_step))
    validation_loss, validation_score, _ = _evaluate(program, model, validation, draws.evaluation)

    better = validation_loss < state.best_loss
    best_params = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), params, state.best_params
    )
    state = State(
        params,
        opt_state,
        best_params,
        jnp.where(better, validation_loss, state.best_loss),
        jnp.where(better, epoch + 1, state.best_epoch),
    )
    return state, {
        "step_losses": step_losses,
        "train_loss": total / count,
        "train_score": score / count,
        "validation_loss": validation_loss,
        "validation_score": validation_score,
        "temperature": temperature(program, last_step),
        "learning_rate": learning_rate(program, last_step),
    }


# Evaluation


def selected(config: Config, state: State) -> Params:
    """The parameters of a phase that are tested and carried on."""
    return state.params if config.select_epoch == "last" else state.best_params


@functools.partial(jax.jit, static_argnums=0)
def evaluate(
    program: Program,
    params: Params,
    rest: nnx.State,
    split: Split,
    key: jax.Array,
    tau: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean loss [], mean score [] and outputs [M, out_features] on a split.

    Selective layers are deterministic unless the config's `evaluation_noise` is set; then each
    batch draws its own choices.
    """
    return _evaluate(program, program.model(params, rest, tau), split, key)


def score_with(program: Program, split: Split) -> Callable[[nnx.Module, nnx.Rngs], float]:
    """(model, rngs) → mean score on the split, the model as it is: for `switch_report`."""

    def score(model: nnx.Module, rngs: nnx.Rngs) -> float:
        graphdef, leaves = nnx.split(model)
        key = rngs["selection"]()
        return float(_score(program, graphdef, leaves, split, key))

    return score


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
    program: Program, graphdef: nnx.GraphDef, leaves: nnx.State, split: Split, key: jax.Array
) -> jax.Array:
    model = nnx.merge(graphdef, leaves)
    return _evaluate_batches(program, model, split, key)[1]


def _evaluate(
    program: Program, model: nnx.Module, split: Split, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    quiet = not program.config.evaluation_noise
    model = nnx.view(model, deterministic=quiet, raise_if_not_found=False)
    return _evaluate_batches(program, model, split, key)


def _evaluate_batches(
    program: Program, model: nnx.Module, split: Split, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    size = len(split.labels)
    batch = program.config.batch_size
    steps = -(-size // batch)
    # The last batch wraps around; its surplus outputs are cut off below.
    indices = (jnp.arange(steps * batch) % size).reshape(steps, batch)

    def step(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        number, index = inputs
        draw = jax.random.fold_in(key, number)
        return None, _apply(program, model, split.inputs[index], draw)

    _, outputs = jax.lax.scan(step, None, (jnp.arange(steps), indices))
    outputs = outputs.reshape(steps * batch, -1)[:size]
    losses, scores = losses_and_scores(program.config, outputs, split.labels)
    return jnp.mean(losses), jnp.mean(scores), outputs

"""One frozen dataclass describes a run. What its values reproduce is in presets.py."""

import dataclasses
import inspect
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from experiments.pools import POOLS as POOLS
from experiments.pools import find_pool
from experiments.typed_json import read_fields, require_type, shown
from smartmixed_jax import ActivationPool, estimators

ARCHITECTURES: dict[int, tuple[int, ...]] = {
    1: (512,),
    2: (512, 256, 128),
    3: (512, 256, 128, 64),
    4: (256, 128),
    5: (512, 256, 256, 128),
    6: (768,),
    7: (768, 512),
    8: (768, 512, 512),
    9: (768, 512, 512, 256, 256),
    10: (768, 512, 512, 256, 256, 128),
    11: (768, 512, 512, 256, 256, 128, 128),
    12: (768, 512, 512, 256, 256, 128, 128, 64),
    13: (768, 512, 512, 256, 256, 128, 128, 64, 64),
    14: (768, 512, 512, 256, 256, 128, 128, 64, 64, 32),
    15: (768, 512, 512, 256, 256, 128, 128, 64, 64, 32, 32),
    16: (768, 512, 512, 256, 256, 128, 128, 64, 64, 32, 32, 16),
    17: (768, 512, 512, 256, 256, 128, 128, 64, 64, 32, 32, 16, 16),
    18: (768, 512, 512, 256),
}
"""Hidden widths: the paper's 17, and the one its table loses to a duplicate key (18)."""

Preset = Literal["published", "described", "recommended"]
PRESET_NAMES = get_args(Preset)
Control = Literal["learned", "shuffled", "random", "majority"]
ESTIMATORS = tuple(
    name
    for name, function in vars(estimators).items()
    if inspect.isfunction(function)
    and function.__module__ == estimators.__name__
    and not name.startswith("_")
    and name != "deterministic"
)
"""Their names: every public function of the library's module that trains logits."""
ONE_DRAW = ("gumbel_straight_through", "gumbel_softmax", "gumbel_rao", "reinmax")
WITHOUT_NOISE = ("straight_through", "soft_mixture")
FixWhen = Literal["end", "decided", "stable", "plateau"]
Dtype = Literal["float32", "bfloat16"]

LAYERS = "layers:"
"""Begins a method that names a function for every layer."""

BEFORE_THEIR_OPTIONS = {
    "estimator": "gumbel_straight_through",
    "start": "none",
    "drop_worse": False,
    "carry_moments": False,
}
"""What a run did before the options were there."""

LARGEST_INT = 2**31 - 1
"""Epochs, steps and examples are counted in int32."""
SMALLEST, LARGEST = (float(value) for value in (np.finfo("f4").tiny, np.finfo("f4").max))
"""Of the numbers that float32 holds with all their digits: what is computed with is one of them."""

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "selective_epochs": (1, LARGEST_INT),
    "mixed_epochs": (1, LARGEST_INT),
    "refine_epochs": (0, LARGEST_INT),
    "steps_per_epoch": (0, LARGEST_INT),
    "batch_size": (1, LARGEST_INT),
    "points": (2, LARGEST_INT),
    "draws": (0, LARGEST_INT),
    "fix_patience": (1, LARGEST_INT),
    "retries": (0, 20),
    "devices": (0, LARGEST_INT),
    "model_axis": (1, LARGEST_INT),
    "learning_rate": (SMALLEST, LARGEST),
    "logit_learning_rate": (0, LARGEST),
    "weight_decay": (0, LARGEST),
    "clip": (0, LARGEST),
    "clamp": (0, LARGEST),
    # Logits, of some tens, are divided by a temperature and added to noise: float32 holds that.
    "temperature": (1e-6, 1e6),
    "final_temperature": (1e-6, 1e6),
    "noise": (0, 1e6),
    "final_noise": (0, 1e6),
    "checkpoint_seconds": (0, LARGEST),
    "label_noise": (0, 1e6),
    "derivative_weight": (0, LARGEST),
}
"""The lowest and the highest value of a number, both allowed; fractions are checked apart."""

MAY_DIFFER = ("data_dir", "run_dir", "checkpoint_seconds", "devices", "model_axis", "stream")
"""Fields that say where and how often, not what is computed: a run resumed may change them."""


@dataclass(frozen=True)
class Config:
    """One run: a task, a method, a seed. Epochs are passes over the training data."""

    preset: Preset = "recommended"
    """Where the defaults come from: the paper's code with its faults (published), the paper's
    abstract (described), or ours (recommended). See README."""
    task: str = "digits"
    """What is learned: digits, mnist, fashion_mnist, cifar10, tiny_shakespeare; function:NAME, a
    function to fit from experiments/data/targets.py; image:NAME, an image to fit as one; pde:NAME,
    a differential equation to solve from experiments/data/pdes.py; or what is yours
    (docs/your_data.md): table:FILE.csv, image:FILE.png, arrays:FILE.npz, function:MODULE:NAME,
    pde:MODULE:NAME, or MODULE:NAME, which returns a Task."""
    method: str = "two_phase"
    """two_phase; or uniform:NAME, one function of the pool for every neuron, layers:NAME,NAME,...,
    one for every layer, or prelu, a trained slope for every neuron: one phase of selective_epochs
    + mixed_epochs."""
    pool: str = "paper"
    """The functions to choose from: paper, regression, extended, modern, smooth or equations; names
    of their functions, such as relu,tanh,sin; or your ActivationPool MODULE:NAME."""
    variance_matched: bool = False
    """Shift and scale each function of the pool to mean 0 and second moment 1 under N(0, 1)."""
    network: str = "mlp"
    """mlp; conv or resnet20 for images; transformer for text, and text takes no other of these; or
    MODULE:NAME, your function of input_shape, out_features, activation, rngs that returns an
    nnx.Module."""
    architecture: int = 3
    """Hidden widths of an mlp by number, 1–18 (the paper's table); 3 is 512-256-128-64."""
    hidden: tuple[int, ...] = ()
    """Hidden widths of an mlp that replace the architecture, such as --hidden 64 64."""
    seed: int = 0
    """Initial weights, batch order, noise; for function tasks the points too."""
    selective_epochs: int = 10
    """Epochs of phase 1."""
    mixed_epochs: int = 20
    """Epochs of phase 2."""
    refine_epochs: int = 0
    """Epochs of a last phase, of an mlp or a network of yours: each step one of L-BFGS on all
    training examples."""
    steps_per_epoch: int = 0
    """0: an epoch is one shuffled pass, the last short batch kept. Otherwise that many batches
    drawn with replacement."""
    batch_size: int = 128
    """Examples per step."""
    dtype: Dtype = "float32"
    """Of the computation in hidden layers and activations; parameters, selection logits, the
    optimiser, outputs and losses stay float32."""
    augment: bool = False
    """Shift every training image by up to 4 pixels and mirror half of them, new in every epoch."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Of the weights: Adam, or gradient descent with Nesterov momentum 0.9. Logits have Adam."""
    learning_rate: float = 1e-3
    """Of the weights at the start of the schedule."""
    warmup: float = 0.0
    """The fraction of the run's steps over which the weights' learning rate rises from 0 to the
    schedule."""
    weight_decay: float = 0.0
    """Of kernels and embeddings, not of biases, norms and logits: decoupled for Adam (AdamW),
    added to the gradient for gradient descent."""
    logit_learning_rate: float = 3e-2
    """Adam's learning rate for the selection logits, constant."""
    schedule: Literal["constant", "cosine", "cosine_restart"] = "cosine"
    """Of the weights' learning rate: constant, a cosine to 0 over both phases, or one per phase."""
    temperature: float = 2.0
    """τ of the estimator at the first step of phase 1."""
    final_temperature: float = 2.0
    """τ at the last step of phase 1, reached linearly."""
    estimator: str = "straight_through"
    """How a neuron draws its function in phase 1, and how the gradient reaches its logits:
    gumbel_straight_through (the paper's), gumbel_softmax, sampled_straight_through (the one that
    takes draws), straight_through (without noise), soft_mixture, gumbel_rao, reinmax, or what else
    smartmixed_jax.estimators has."""
    noise: float = 1.0
    """β, the scale of what is drawn, at the first step of phase 1; 1 is the paper's, 0 none."""
    final_noise: float = 1.0
    """β at the last step of phase 1, reached linearly."""
    draws: int = 1
    """Draws that serve a batch of phase 1, each an equal part of it, so at least as many as it
    takes to divide batch_size; 0: one per example."""
    start: str = "auto"
    """The function that every neuron starts from, with start_probability; none: all alike; auto:
    relu where the pool has it, otherwise none."""
    start_probability: float = 0.9
    """Of the function start, at the start of phase 1."""
    drop_worse: bool = True
    """At the switch, a layer whose choices do not lower the validation loss returns to start."""
    logit_warmup: float = 0.0
    """The fraction of phase 1's steps before which the logits do not move."""
    fix_when: FixWhen = "end"
    """When choices are fixed: at the end of phase 1, or at the first of its epochs where fix_share
    of the neurons are decided (one function has at least half of the probability), or stable (they
    kept their choice), or where the validation loss is on a plateau. Training goes on as before."""
    layer_by_layer: bool = False
    """Fix each layer when it is decided or stable by itself; with end, one after another."""
    fix_share: float = 0.99
    """Of decided, and of stable: the share of neurons."""
    fix_patience: int = 3
    """Epochs of phase 1 before anything is fixed; of a plateau, those without a lower loss."""
    clip: float = 1.0
    """Largest global norm of the gradient of weights and logits; 0 does not clip."""
    clip_together: bool = True
    """One norm of weights and logits; otherwise of the weights alone, and the logits unclipped."""
    initialization: Literal["torch", "normal"] = "normal"
    """Of the linear layers of an mlp: U(±1/√fan_in) for kernel and bias (torch), or N(0, 1/fan_in)
    and 0 (normal)."""
    clamp: float = 0.0
    """Clamp every function of the pool to ± this in phase 1; 0 does not clamp."""
    double_softmax: bool = False
    """Apply the cross-entropy to softmaxed outputs, as the published code does."""
    evaluation_noise: bool = False
    """Evaluate phase 1 with the noise on, as the published code does."""
    select_epoch: Literal["lowest_loss", "last"] = "last"
    """The epoch of a phase that is tested, and that phase 2 takes its choices and weights from:
    the one with the lowest validation loss, or the last."""
    carry_weights: bool = True
    """Phase 2 continues with the weights of phase 1; otherwise they are reinitialized."""
    carry_moments: bool = True
    """And with the moments of their optimiser; otherwise these begin at 0."""
    control: Control = "learned"
    """What phase 2 fixes: the learned choices, or a control: the same counts on shuffled neurons
    of the layer, uniformly random ones, or the most chosen function of the layer everywhere."""
    target: str = ""
    """Of a table: the column to predict."""
    target_kind: Literal["auto", "values", "classes"] = "auto"
    """Of a table: fit the target as values or as classes; auto takes text, true and false, and
    whole numbers with at most 10 distinct ones as classes."""
    inputs: tuple[str, ...] = ()
    """Of a table: the columns that the network sees; none: all but target and split_column."""
    split_column: str = ""
    """Of a table: the column that holds train, validation or test for each row; none: rows are
    drawn with the seed."""
    validation_fraction: float = 0.1
    """Of the training images, stratified, always the same split (seed 42); of a table's rows; of
    half of the pixels of an image to fit."""
    test_fraction: float = 0.15
    """Of a table's rows."""
    range: tuple[float, float] = (-2.0, 2.0)
    """Of a function: the lowest and highest value of each variable in training; beyond it, up to
    1.5 times as wide, the fit is tested outside. Of an image: where its longer side begins and
    ends; a wider one makes it smoother in these units."""
    points: int = 4000
    """Of a function or an equation: how many points it is trained on."""
    label_noise: float = 0.0
    """Of a function: the standard deviation of normal noise on the values to train and validate
    on, by that of the values; it is tested without."""
    derivative_weight: float = 0.0
    """Of a table whose NPZ file has dy [M, d], the derivatives of y by the columns of x: the weight
    of their mean squared error beside that of y, both standardised; 0 does not fit them."""
    data_dir: str | None = None
    """Folder with prepared TFDS data, raw files or NAME.npz; default $TFDS_DATA_DIR, then
    ~/tensorflow_datasets, then a download. A table or arrays are looked for here too."""
    stream: bool = False
    """Read the training examples from a file as they are needed, instead of holding them on the
    device; the results are the same."""
    run_dir: str | None = None
    """The run's folder; default runs/TASK/NAME. The same command again resumes."""
    checkpoint_seconds: float = 60.0
    """Save a checkpoint after about so many seconds, at the end of an epoch or, of a long one, in
    it; and at the end of a phase."""
    retries: int = 0
    """How often a run whose numbers are not finite goes back to its last checkpoint and on, each
    time at half the learning rates."""
    devices: int = 0
    """How many train the run together, each a part of every batch; 0: one, and with --distributed
    all there are."""
    model_axis: int = 1
    """So many of the devices share the neurons of wide layers, and a part of the batch."""

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def widths(self) -> tuple[int, ...]:
        """The hidden widths."""
        return self.hidden or ARCHITECTURES[self.architecture]

    @property
    def has_user_network(self) -> bool:
        """The network is the user's, MODULE:NAME."""
        return ":" in self.network

    @property
    def is_uniform(self) -> bool:
        """One function of the pool for every neuron."""
        return self.method.startswith("uniform:")

    @property
    def layer_functions(self) -> tuple[str, ...]:
        """Of layers:NAME,NAME,... the names, a layer each; otherwise none."""
        return tuple(self.method.removeprefix(LAYERS).split(",")) if self.is_layered else ()

    @property
    def is_layered(self) -> bool:
        """One function of the pool for every layer, which are named."""
        return self.method.startswith(LAYERS)

    @property
    def has_choices(self) -> bool:
        """Neurons choose their functions; otherwise there is one phase and no switch."""
        return self.method == "two_phase"

    @property
    def carries_moments(self) -> bool:
        """The optimiser's moments go on with the weights, which are those of the last epoch."""
        return self.carry_moments and self.carry_weights and self.select_epoch == "last"

    @property
    def activation_pool(self) -> ActivationPool:
        """The pool of the mixed phase; `clamp` wraps it in phase 1 only.

        Raises:
            ValueError: it is the user's and cannot be imported.
        """
        pool = find_pool(self.pool)
        return pool.variance_matched() if self.variance_matched else pool

    @property
    def start_function(self) -> str | None:
        """The function that every neuron starts from."""
        if self.start == "auto":
            return "relu" if "relu" in self.activation_pool.names else None
        return None if self.start == "none" else self.start

    @property
    def draws_of_batch(self) -> int:
        """The smallest divisor of batch_size that is at least `draws`, or batch_size."""
        size = self.batch_size
        least = min(self.draws or size, size)
        halves = [n for n in range(1, math.isqrt(size) + 1) if size % n == 0]
        return min(n for half in halves for n in (half, size // half) if n >= least)

    @property
    def variant(self) -> str:
        """The method and what its control changes, such as two_phase-shuffled or uniform:relu."""
        parts = [self.method]
        if self.control != "learned":
            parts.append(self.control)
        # The preset `published` reinitializes the weights at the switch, the others carry them.
        if self.carry_weights == (self.preset == "published"):
            parts.append("carried" if self.carry_weights else "reinitialized")
        return "-".join(parts)


def _validate(config: Config) -> None:
    def require(ok: bool, field: str, expected: str) -> None:
        if not ok:
            raise ValueError(f"{field} = {shown(getattr(config, field))}: expected {expected}")

    for field in dataclasses.fields(config):
        require_type(field.name, getattr(config, field.name), field.type)
        words = getattr(config, field.name)
        ok = not any("\0" in word for word in _listed(words) if isinstance(word, str))
        require(ok, field.name, "text without NUL")
    for name in ("data_dir", "run_dir"):
        local = "://" not in (getattr(config, name) or "")
        require(local, name, "a folder of this machine, not an address")
    for name, (low, high) in RANGES.items():
        ends = f"at least {low:.9g}, at most {high:.10g}"
        require(low <= getattr(config, name) <= high, name, ends)
    if ":" not in config.pool:  # a run folder is read where the user's modules may not be
        check_method(config)
    require(config.architecture in ARCHITECTURES, "architecture", "1 to 18")
    widths = all(1 <= width <= LARGEST_INT for width in config.hidden)
    require(widths, "hidden", f"positive widths, at most {LARGEST_INT}")
    require(config.estimator in ESTIMATORS, "estimator", f"one of {', '.join(ESTIMATORS)}")
    require(
        0 <= config.warmup < 1,
        "warmup",
        "a fraction in [0, 1) of the run's steps, no warm-up longer than the run",
    )
    require(0 <= config.logit_warmup < 1, "logit_warmup", "in [0, 1)")
    fits = config.draws == 1 or config.estimator not in ONE_DRAW
    require(fits, "draws", f"1 for {config.estimator}: sampled_straight_through takes more")
    fixed = config.estimator != "reinmax" or (config.noise, config.final_noise) == (1.0, 1.0)
    require(fixed, "noise", "1 for reinmax")
    require(0 < config.fix_share <= 1, "fix_share", "in (0, 1]")
    refined = bool(config.refine_epochs)
    plain = config.network == "mlp" or config.has_user_network
    require(not refined or plain, "refine_epochs", "0 but for an mlp or a network of yours")
    require(not (refined and config.stream), "stream", "False with refine_epochs: L-BFGS needs all")
    by_layer = not (config.layer_by_layer and config.fix_when == "plateau")
    require(by_layer, "layer_by_layer", "False for plateau: the loss is of the whole network")
    for name in ("validation_fraction", "test_fraction", "start_probability"):
        value = getattr(config, name)
        require(0 < value < 1 and 0 < _as_float32(value) < 1, name, "in (0, 1), also as float32")
    low, high = config.range
    # Values beyond the range, half as far again, are float32 too, and their width.
    ordered = -1e38 <= low < high <= 1e38 and _as_float32(low) < _as_float32(high)
    require(ordered, "range", "two finite numbers, the lower first, also as float32, up to 1e38")
    for field in dataclasses.fields(config):
        for number in _listed(getattr(config, field.name)):
            held = not isinstance(number, float) or not 0 < abs(number) < SMALLEST
            require(held, field.name, f"0 or at least {SMALLEST:.9g}, the smallest of float32")


def _as_float32(value: float) -> float:
    return float(np.float32(value))


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def check_method(config: Config) -> None:
    """Raises ValueError for a method that the pool does not have, or a pool that there is not."""
    pool = find_pool(config.pool)
    methods = ["two_phase", *(f"uniform:{name}" for name in pool.names)]
    if not config.has_user_network:  # which makes its activations itself
        methods.append("prelu")
    if unknown := [name for name in config.layer_functions if name not in pool.names]:
        raise ValueError(
            f"method = {config.method!r}: no function {unknown[0]!r} in the pool {config.pool}: "
            f"{', '.join(pool.names)}"
        )
    if config.method not in methods and not config.is_layered:
        methods.append(f"{LAYERS}NAME,NAME,...")
        raise ValueError(f"method = {config.method!r}: expected one of {', '.join(methods)}")
    if config.start not in ("auto", "none", *find_pool(config.pool).names):
        raise ValueError(f"start = {config.start!r}: no function of the pool {config.pool}")


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of a run.

    In `selective` the neurons choose, in the others nothing is chosen; in `refined` a step is one
    of L-BFGS.
    """

    name: Literal["selective", "mixed", "uniform", "refined"]
    epochs: int


def phases(config: Config) -> tuple[PhaseSpec, ...]:
    """The phases of a run, in order."""
    refined = (PhaseSpec("refined", config.refine_epochs),) if config.refine_epochs else ()
    if not config.has_choices:
        return (PhaseSpec("uniform", config.selective_epochs + config.mixed_epochs), *refined)
    return (
        PhaseSpec("selective", config.selective_epochs),
        PhaseSpec("mixed", config.mixed_epochs),
        *refined,
    )


def has_fixed_choices(config: Config, phase_index: int) -> bool:
    """Whether the network of a phase is the one that the switch made."""
    return phase_index > 0 and config.has_choices


def epochs_before(config: Config, phase_index: int) -> int:
    """Epochs of the phases before a phase."""
    return sum(spec.epochs for spec in phases(config)[:phase_index])


def total_epochs(config: Config) -> int:
    """Epochs of all phases."""
    return sum(spec.epochs for spec in phases(config))


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """The config that `to_json` wrote, also before some options were there.

    Raises:
        ValueError: an unknown field, a wrong type, or a part of a config.
    """
    fields = read_fields(text, Config)
    for name in ("preset", "task", "method", "hidden", "seed"):
        if name not in fields:
            raise ValueError(f"no field {name!r}")
    return Config(**{**BEFORE_THEIR_OPTIONS, **fields})

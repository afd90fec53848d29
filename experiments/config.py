"""One frozen dataclass describes a run. What its values reproduce is in presets.py."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from experiments.pools import POOLS as POOLS
from experiments.pools import find_pool
from experiments.typed_json import read_fields
from smartmixed_jax import ActivationPool

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
CONTROLS = get_args(Control)
Dtype = Literal["float32", "bfloat16"]
DTYPES = get_args(Dtype)

MAY_DIFFER = ("data_dir", "run_dir", "checkpoint_seconds")
"""Fields that say where and how often, not what is computed: a run resumed may change them."""


@dataclass(frozen=True)
class Config:
    """One run: a task, a method, a seed. Epochs are passes over the training data."""

    preset: Preset = "recommended"
    """Where the defaults come from: the paper's code with its faults (published), the paper's
    abstract (described), or ours (recommended). See README."""
    task: str = "digits"
    """What is learned: digits, mnist, fashion_mnist, cifar10, tiny_shakespeare; function:NAME, a
    function to fit from experiments/data/functions.py; or what is yours (docs/your_data.md):
    table:FILE.csv, arrays:FILE.npz, function:MODULE:NAME, or MODULE:NAME, which returns a Task."""
    method: str = "two_phase"
    """two_phase, or uniform:NAME: one function of the pool for every neuron, one phase of
    selective_epochs + mixed_epochs."""
    pool: str = "paper"
    """The functions to choose from: paper, regression or extended; names of their functions, such
    as relu,tanh,sin; or your ActivationPool MODULE:NAME."""
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
    final_temperature: float = 0.5
    """τ at the last step of phase 1, reached linearly."""
    clip: float = 1.0
    """Largest global norm of the gradient of weights and logits together; 0 does not clip."""
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
    """Of the training images, stratified, always the same split (seed 42); of a table's rows."""
    test_fraction: float = 0.15
    """Of a table's rows."""
    range: tuple[float, float] = (-2.0, 2.0)
    """Of a function: the lowest and highest value of each variable in training; beyond it, up to
    1.5 times as wide, the fit is tested outside."""
    data_dir: str | None = None
    """Folder with prepared TFDS data, raw files or NAME.npz; default $TFDS_DATA_DIR, then
    ~/tensorflow_datasets, then a download. A table or arrays are looked for here too."""
    run_dir: str | None = None
    """The run's folder; default runs/TASK/NAME. The same command again resumes."""
    checkpoint_seconds: float = 60.0
    """Save a checkpoint at the first epoch end after so many seconds, and at the end of a phase."""

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
        """One function for every neuron, so that nothing is chosen."""
        return self.method.startswith("uniform:")

    @property
    def activation_pool(self) -> ActivationPool:
        """The pool of the mixed phase; `clamp` wraps it in phase 1 only.

        Raises:
            ValueError: it is the user's and cannot be imported.
        """
        pool = find_pool(self.pool)
        return pool.variance_matched() if self.variance_matched else pool

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
            raise ValueError(f"{field} = {getattr(config, field)!r}: expected {expected}")

    require(config.preset in PRESET_NAMES, "preset", f"one of {', '.join(PRESET_NAMES)}")
    require(config.control in CONTROLS, "control", f"one of {', '.join(CONTROLS)}")
    require(config.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}")
    if ":" not in config.pool:  # a run folder is read where the user's modules may not be
        check_method(config)
    require(config.architecture in ARCHITECTURES, "architecture", "1 to 18")
    require(all(width > 0 for width in config.hidden), "hidden", "positive widths")
    for field in ("selective_epochs", "mixed_epochs", "batch_size"):
        require(getattr(config, field) >= 1, field, "at least 1")
    for field in ("learning_rate", "temperature", "final_temperature"):
        require(0 < getattr(config, field) < float("inf"), field, "a finite value > 0")
    not_negative = ("steps_per_epoch", "seed", "logit_learning_rate", "weight_decay")
    for field in (*not_negative, "clip", "clamp"):
        require(getattr(config, field) >= 0, field, "at least 0")
    require(
        0 <= config.warmup < 1,
        "warmup",
        "a fraction in [0, 1) of the run's steps, no warm-up longer than the run",
    )
    for field in ("validation_fraction", "test_fraction"):
        require(0 < getattr(config, field) < 1, field, "in (0, 1)")
    low, high = config.range
    ordered = math.isfinite(low) and math.isfinite(high) and low < high
    require(ordered, "range", "two finite numbers, the lower first")


def check_method(config: Config) -> None:
    """Raises ValueError for a method that the pool does not have, or a pool that there is not."""
    methods = ("two_phase", *(f"uniform:{name}" for name in find_pool(config.pool).names))
    if config.method not in methods:
        raise ValueError(f"method = {config.method!r}: expected one of {', '.join(methods)}")


class WithoutEffect(NamedTuple):
    """Fields that change nothing when `when(config, preset)` is true, preset as below, and why."""

    fields: tuple[str, ...]
    when: Callable[[Config, Config], bool]
    why: str


WITHOUT_EFFECT: tuple[WithoutEffect, ...] = (
    WithoutEffect(
        (
            *("control", "carry_weights", "logit_learning_rate", "temperature"),
            *("final_temperature", "clamp", "evaluation_noise"),
        ),
        lambda config, preset: config.is_uniform,
        "a uniform network has no choices and one phase",
    ),
    WithoutEffect(
        ("architecture", "hidden", "initialization"),
        lambda config, preset: config.network != "mlp",
        "only the network mlp has it",
    ),
    WithoutEffect(
        ("architecture",), lambda config, preset: config.hidden != (), "hidden gives the widths"
    ),
    WithoutEffect(
        ("schedule",),
        lambda config, preset: (
            config.is_uniform and "constant" not in (config.schedule, preset.schedule)
        ),
        "with one phase, cosine and cosine_restart are the same",
    ),
    WithoutEffect(
        ("select_epoch",),
        lambda config, preset: all(spec.epochs == 1 for spec in phases(config)),
        "phases of one epoch have no other to select",
    ),
    WithoutEffect(
        ("validation_fraction", "test_fraction"),
        lambda config, preset: bool(config.split_column),
        "split_column says which row is for what",
    ),
    WithoutEffect(
        ("warmup",),
        lambda config, preset: (
            bool(steps := total_epochs(config) * config.steps_per_epoch)
            and round(config.warmup * steps) == round(preset.warmup * steps)
        ),
        "in steps it is the warm-up of the preset",
    ),
)
"""What the other options make pointless; a task's data say the rest (data/tasks.py). The fields in
MAY_DIFFER never count, nor does `pool`, which says what uniform:NAME may name."""


def without_effect(config: Config, preset: Config) -> dict[str, str]:
    """The fields whose value changes nothing in this config, and why.

    Args:
        config: of a run.
        preset: the values of its preset for its task, as `presets.default_config` gives them.
    """
    return {
        field: rule.why
        for rule in reversed(WITHOUT_EFFECT)  # of two reasons the first stays
        if rule.when(config, preset)
        for field in rule.fields
    }


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of a run: in `selective` the neurons choose, in the others nothing is chosen."""

    name: Literal["selective", "mixed", "uniform"]
    epochs: int


def phases(config: Config) -> tuple[PhaseSpec, ...]:
    """The phases of a run, in order."""
    if config.method == "two_phase":
        return (
            PhaseSpec("selective", config.selective_epochs),
            PhaseSpec("mixed", config.mixed_epochs),
        )
    return (PhaseSpec("uniform", config.selective_epochs + config.mixed_epochs),)


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
    return Config(**fields)

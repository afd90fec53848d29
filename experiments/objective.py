"""What a task trains for, and how its results are told: one `Objective` per kind of task.

Training, reports and figures ask the objective of a task and nothing else about its kind. A new
kind of task needs an instance here and an entry in `OBJECTIVES`, if none of these fits; one of the
user's is found by its place, MODULE:NAME.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.importing import load_object

Criterion = Callable[[jax.Array, jax.Array], jax.Array]
"""(outputs float32 [B, ..., K], labels [B, ...]) → a number per prediction, [B, ...]."""


def _four_digits(value: float) -> str:
    return f"{value:.4g}"


def _two_digits(value: float) -> str:
    return f"{value:.2f}"


def _scientific(value: float) -> str:
    return f"{value:.2e}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


@dataclass(frozen=True)
class Objective:
    """Loss, score, and the one number by which runs of a task are compared.

    A phase's results are a mapping such as `{"test_loss": 0.1, "test_score": 0.97}`: per split
    the mean loss and the mean score, and the normalised error where `normalized` is set.

    Attributes:
        name: the key in `OBJECTIVES`, which task.json holds.
        loss: what gradient descent minimises, a number per prediction.
        score: what people read, a number per prediction.
        loss_name: of the axis of a loss curve.
        metric: what a mean score is, such as accuracy.
        metric_unit: of a mean score as it is written: "%" (100 times the mean) or "".
        score_name: of the number by which runs are compared.
        unit: of that number; "%" as above.
        result: its key in a phase's results, such as test_score.
        selection: the key by which the best uniform network is picked, a validation result.
        lower_is_better: of both, but for a validation loss, of which the lower is always better.
        log_scale: means over seeds are geometric, and runs are compared by their ratio.
        digits: the format of that number, such as ".2f".
        columns: of a run's table: label → (key in a phase's results, how it is written). Keys
            that a task does not have are left out.
        note: below that table.
        normalized: scores are squared errors, given divided by the variance of the labels too.
        peak: above 0, scores are squared errors, given as the peak signal-to-noise ratio in dB too;
            of values whose largest possible one it is.
        scores_training: the training examples are scored after each phase, as the test's are.
        relative: scores are squared errors, given as the relative L2 error too, of the first column
            of the labels.
        confusion: every example has one class, so that a confusion matrix says something.
    """

    name: str
    loss: Criterion
    score: Criterion
    loss_name: str
    metric: str
    metric_unit: str
    score_name: str
    unit: str
    result: str
    selection: str
    lower_is_better: bool
    digits: str
    columns: Mapping[str, tuple[str, Callable[[float], str]]] = dataclasses.field(hash=False)
    log_scale: bool = False
    note: str = ""
    normalized: bool = False
    relative: bool = False
    peak: float = 0.0
    scores_training: bool = False
    confusion: bool = False

    def losses_and_scores(
        self, outputs: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Per example the loss and the score, float32 [B]; of a text the means over its characters.

        Args:
            outputs: of the network, [B, out_features], or of text [B, T, out_features].
            labels: classes int [B], values [B, K], or the next characters int [B, T].
        """
        outputs = outputs.astype(jnp.float32)
        if jnp.issubdtype(labels.dtype, jnp.integer):
            labels = labels.astype(jnp.int32)
        scores = self.score(outputs, labels)
        losses = self.loss(outputs, labels) if self.has_score else scores
        return _per_example(losses), _per_example(scores)

    @property
    def has_score(self) -> bool:
        """Whether the score says anything beside the loss."""
        return self.score is not self.loss

    def results(self, split: str, loss: float, score: float, labels: Any) -> dict[str, float]:
        """What a phase's results say of a split."""
        numbers = {f"{split}_loss": loss, f"{split}_score": score}
        if self.normalized:
            numbers[f"{split}_normalized_error"] = score / float(np.var(np.asarray(labels)))
        if self.relative and (size := float(np.mean(np.square(np.asarray(labels)[:, 0])))):
            numbers[f"{split}_relative_error"] = float((score / size) ** 0.5)
        if self.peak:
            numbers[f"{split}_psnr"] = 10 * math.log10(self.peak**2 / max(score, SMALLEST_ERROR))
        return numbers

    def compared(self, phase: Mapping[str, Any]) -> float:
        """The number by which runs are compared, from the results of a phase, in its unit."""
        return _factor(self.unit) * phase[self.result]

    def validation_error(self, phase: Mapping[str, Any]) -> float:
        """By which a method is picked without the test set, from a phase's results; lower wins."""
        value = phase[self.selection]
        is_error = self.lower_is_better or self.selection == "validation_loss"
        return value if is_error else -value

    def format(self, number: float) -> str:
        """A number that `compared` returned, or a difference of two, without its unit."""
        return f"{number:{self.digits}}"

    def format_metric(self, score: float, digits: str = ".4g") -> str:
        """A mean score with its unit."""
        return f"{self.metric_factor * score:{digits}} {self.metric_unit}".rstrip()

    @property
    def metric_factor(self) -> float:
        """A mean score times this has the unit `metric_unit`."""
        return _factor(self.metric_unit)

    @property
    def label(self) -> str:
        """Name and unit of the number by which runs are compared."""
        return f"{self.score_name} (%)" if self.unit == "%" else f"{self.score_name}, {self.unit}"


def _factor(unit: str) -> float:
    return 100.0 if unit == "%" else 1.0


def _per_example(values: jax.Array) -> jax.Array:
    return values if values.ndim == 1 else jnp.mean(values, -1)


# The criteria


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """−log of the softmax at the label."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def double_softmax_cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of the published code: its networks end in a softmax, and so does its loss."""
    return cross_entropy(jax.nn.softmax(outputs), labels)


def is_right(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest output is the label's, else 0."""
    return (jnp.argmax(outputs, -1) == labels).astype(jnp.float32)


def squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """(output − value)², of several outputs [B, K] their mean."""
    errors = jnp.square(outputs - labels)
    return errors[:, 0] if errors.shape[1] == 1 else jnp.mean(errors, -1)


def first_squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """(output − value)² of the first."""
    return jnp.square(outputs[:, 0] - labels[:, 0])


def sum_of_squared_errors(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Σ (output − value)² over the outputs."""
    return jnp.sum(jnp.square(outputs - labels), -1)


def equation_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Where the solution is known its weighted squared error, elsewhere the squared residual.

    Args:
        outputs: solution and residual, [B, 2].
        labels: the solution, and the weight of its error or 0 where it is not known, [B, 2].
    """
    return _known_or_residual(outputs, labels, labels[:, 1])


def solution_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The same without weights."""
    return _known_or_residual(outputs, labels, 1.0)


def _known_or_residual(outputs: jax.Array, labels: jax.Array, weight: Any) -> jax.Array:
    error = weight * jnp.square(outputs[:, 0] - labels[:, 0])
    return jnp.where(labels[:, 1] > 0, error, jnp.square(outputs[:, 1]))


SMALLEST_ERROR = 1e-15
"""Of which a signal-to-noise ratio is given: a perfect fit has 150 dB."""

# The objectives

CLASSIFICATION = Objective(
    name="classification",
    loss=cross_entropy,
    score=is_right,
    loss_name="loss",
    metric="accuracy",
    metric_unit="%",
    score_name="test accuracy",
    unit="%",
    result="test_score",
    selection="validation_score",
    lower_is_better=False,
    digits=".2f",
    columns={
        "validation accuracy": ("validation_score", _percent),
        "test accuracy": ("test_score", _percent),
    },
    confusion=True,
)

REGRESSION = Objective(
    name="regression",
    loss=squared_error,
    score=squared_error,
    loss_name="mean squared error",
    metric="MSE",
    metric_unit="",
    score_name="normalised test error",
    unit="MSE / Var y",
    result="test_normalized_error",
    selection="validation_score",
    lower_is_better=True,
    log_scale=True,
    digits=".2e",
    columns={
        "test error": ("test_normalized_error", _scientific),
        "outside": ("outside_normalized_error", _scientific),
    },
    note="errors are MSE / Var y",
    normalized=True,
)

COLUMN_REGRESSION = dataclasses.replace(
    REGRESSION,
    name="column_regression",
    loss_name="mean squared error, standardised",
    columns={
        "test error": ("test_normalized_error", _scientific),
        "test RMSE": ("test_rmse", _four_digits),
    },
    note="the error is MSE / Var y, the RMSE has the unit of the column",
)
"""Of a table: the network fits the standardised column."""

COLUMN_REGRESSION_WITH_DERIVATIVES = dataclasses.replace(
    COLUMN_REGRESSION,
    name="column_regression_with_derivatives",
    loss=sum_of_squared_errors,
    score=first_squared_error,
    loss_name="squared error with derivatives",
)
"""The same where the derivatives by the inputs are fitted too."""

IMAGE = dataclasses.replace(
    REGRESSION,
    name="image",
    score_name="test PSNR",
    unit="dB",
    result="test_psnr",
    selection="validation_loss",
    lower_is_better=False,
    log_scale=False,
    digits=".2f",
    columns={
        "train PSNR": ("train_psnr", _two_digits),
        "test PSNR": ("test_psnr", _two_digits),
    },
    note="PSNR in dB, of intensities in [0, 1]; published numbers are on the training pixels",
    normalized=False,
    peak=1.0,
    scores_training=True,
)
"""Of an image as a function of the place."""

EQUATION = Objective(
    name="equation",
    loss=equation_error,
    score=solution_error,
    loss_name="mean squared residual",
    metric="mean square",
    metric_unit="",
    score_name="relative L2 error",
    unit="of the solution",
    result="test_relative_error",
    selection="validation_loss",
    lower_is_better=True,
    log_scale=True,
    digits=".2e",
    columns={"relative L2 error": ("test_relative_error", _scientific)},
    note="validation: the mean squared residual; test: the solution against its reference",
    relative=True,
)
"""Of a differential equation, solved without a value of its solution."""

EQUATION_WITHOUT_SOLUTION = dataclasses.replace(
    EQUATION,
    name="equation_without_solution",
    score_name="mean squared residual",
    unit="of the test points",
    result="test_loss",
    columns={"mean squared residual": ("test_loss", _scientific)},
    note="",
    relative=False,
)
"""Of one whose solution is not known."""

NEXT_CHARACTER = dataclasses.replace(
    CLASSIFICATION,
    name="next_character",
    score_name="test loss",
    unit="nats per character",
    result="test_loss",
    selection="validation_loss",
    lower_is_better=True,
    digits=".3f",
    columns={
        "validation accuracy": ("validation_score", _percent),
        "test loss": ("test_loss", _four_digits),
        "test accuracy": ("test_score", _percent),
    },
    confusion=False,
)

DOUBLE_SOFTMAX, NEXT_CHARACTER_DOUBLE_SOFTMAX = (
    dataclasses.replace(
        objective,
        name=f"{objective.name}_double_softmax",
        loss=double_softmax_cross_entropy,
    )
    for objective in (CLASSIFICATION, NEXT_CHARACTER)
)

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        CLASSIFICATION,
        DOUBLE_SOFTMAX,
        REGRESSION,
        COLUMN_REGRESSION,
        COLUMN_REGRESSION_WITH_DERIVATIVES,
        IMAGE,
        EQUATION,
        EQUATION_WITHOUT_SOLUTION,
        NEXT_CHARACTER,
        NEXT_CHARACTER_DOUBLE_SOFTMAX,
    )
}
"""By the name that a run folder's task.json holds."""


def find_objective(name: str) -> Objective:
    """The objective of that name, or the user's that is called MODULE:NAME; ValueError if none."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    if ":" not in name:
        raise ValueError(f"objective {name!r}, not one of {', '.join(OBJECTIVES)}")
    objective = load_object("objective", name)
    if not isinstance(objective, Objective):
        raise ValueError(f"objective {name!r} is a {type(objective).__name__}")
    return dataclasses.replace(objective, name=name)


def with_double_softmax(objective: Objective) -> Objective:
    """The same with the published code's loss; ValueError if there is nothing to softmax."""
    name = f"{objective.name}_double_softmax"
    if name not in OBJECTIVES:
        raise ValueError(f"double_softmax = True: expected False for {objective.name}")
    return OBJECTIVES[name]

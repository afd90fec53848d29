"""What a run trains on: a `Task`, its splits on the device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.data.functions import Fitted
from experiments.objective import Objective
from experiments.run_folder import TaskRecord

if TYPE_CHECKING:
    from experiments.data.records import Records


class Split(NamedTuple):
    """Inputs and labels of M examples.

    Attributes:
        inputs: images [M, H, W, C], points or rows float32 [M, d], or characters uint8 [M, T].
        labels: classes int32 [M], values float32 [M, K], or the next characters uint8 [M, T]. What
            the objective needs beside the values stands in further columns.
    """

    inputs: jax.Array
    labels: jax.Array


def host_split(inputs: Any, labels: Any) -> Split:
    """A split of NumPy arrays, until it is put on the device."""
    return Split(inputs, labels)


@dataclass(frozen=True, eq=False)
class Task:
    """A problem with its data: all that training, reports and figures know of it.

    Attributes:
        name: as in the config.
        splits: `train`, `validation` and `test`; of a function also `outside` (beyond the box that
            the training points fill). Every split has the same shapes but for M. Of a streamed
            task `train` has shapes and dtypes only.
        objective: loss, score, and how results are told.
        out_features: classes, characters, or values of an example.
        scale: inputs are divided by it, as float32, inside the compiled step; None for tokens,
            which a network takes as int32.
        class_names: in the order of the labels; empty where there are none.
        source: one line, where the data came from.
        seeded: the data are drawn with the run's seed, so that runs of two seeds share nothing.
        extras: what else is needed to use the trained network later, as JSON takes it.
        tabulate_fit: for a problem whose true function is known: the trained function, inputs
            [B, d] → values [B], of several outputs [B, K], → the arrays of fit.npz.
        label_scale: values were divided by it; results then give their error in the unit that
            they had.
        records: the training examples of a streamed task.
    """

    name: str
    splits: Mapping[str, Split]
    objective: Objective
    out_features: int
    scale: float | None = 1.0
    class_names: tuple[str, ...] = ()
    source: str = ""
    seeded: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)
    tabulate_fit: Callable[[Fitted], dict[str, np.ndarray]] | None = None
    label_scale: float | None = None
    records: "Records | None" = None

    @property
    def train(self) -> "Split | Records":
        """The training examples, where they are."""
        return self.splits["train"] if self.records is None else self.records

    @property
    def train_size(self) -> int:
        """The number of training examples."""
        return int(self.splits["train"].labels.shape[0])

    @property
    def scored(self) -> tuple[str, ...]:
        """The splits that results are told of, when a phase is over: `test` first."""
        training = ("train",) if self.objective.scores_training and self.records is None else ()
        return ("test", *(part for part in ("outside",) if part in self.splits), *training)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return self.splits["train"].inputs.shape[1:]

    @property
    def takes_tokens(self) -> bool:
        return self.scale is None

    @property
    def has_images(self) -> bool:
        return len(self.shape) == 3

    def results(self, split: str, loss: float, score: float) -> dict[str, float]:
        """What a phase's results say of a split, from its mean loss and score."""
        labels = self.splits[split].labels
        values = labels[:, : self.out_features] if labels.ndim == 2 else labels
        numbers = self.objective.results(split, loss, score, values)
        if self.label_scale is not None:
            numbers[f"{split}_rmse"] = self.label_scale * score**0.5
        return numbers

    def record(self) -> TaskRecord:
        """What the run folder keeps of it."""
        return TaskRecord(
            name=self.name,
            objective=self.objective,
            shape=self.shape,
            out_features=self.out_features,
            class_names=self.class_names,
            source=self.source,
            extras=dict(self.extras),
            scale=self.scale,
        )

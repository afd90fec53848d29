"""Batches from where the training examples are: all on the device, or streamed from a file.

A streamed epoch is cut in blocks of steps, which grain reads ahead in threads and puts on the
device; on a mesh each process reads what its devices have of every batch, and no more. Their order
is that of `draw`, which seed and epoch decide: so a streamed run has the bits of one whose examples
are all on the device, and goes on at the same example after any step.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.records import Records
from experiments.data.task import Split, host_split
from experiments.training import devices
from experiments.training.program import Program
from experiments.training.step import Batches

BLOCK_BYTES = 1 << 24
"""A process reads about so many for a block, and at least one step."""
FIRST_SHARE = 8
"""The first block of a phase has so much fewer steps, which a device need not wait for long."""
BLOCKS_AHEAD = 2
"""So many blocks are read before they are needed, each by a thread."""


class Block(NamedTuple):
    """What is on the device for some steps of an epoch.

    Attributes:
        train: all examples, or the batches of these steps.
        last: the step before which the block ends.
    """

    train: Split | Batches
    last: int


class Span(NamedTuple):
    """The steps first … last − 1 of an epoch."""

    epoch: int
    first: int
    last: int


Feed = Callable[[], Iterable[Block]]
"""→ the blocks of the next epoch, in order."""


@contextlib.contextmanager
def feeding(
    program: Program,
    train: Split | Records,
    order: Callable[[int], jax.Array],
    first_epoch: int,
    first_step: int,
) -> Iterator[Feed]:
    """Feeds a phase from some step on; closes what reads ahead when it ends.

    Args:
        program: of the phase; of one run if its examples are streamed.
        train: all examples on the device, or in a file.
        order: epoch → its indices [steps, batch], as `draw` gives them; called for every block.
        first_epoch, first_step: where the phase goes on.

    Raises:
        DataError: the file cannot be read, when a block of it is needed.
    """
    if not isinstance(train, Records):
        yield lambda: [Block(train, program.steps)]
        return
    batch = program.config.batch_size
    columns = devices.own_columns(program.mesh, batch)
    steps = block_steps(program.steps, len(columns) * train.example_bytes)
    spans = list(cut(program.steps, program.spec.epochs, steps, first_epoch, first_step))
    source = BlockSource(train, order, spans, steps, columns)
    place = functools.partial(devices.place_batches, program.mesh, columns=columns, batch=batch)
    with contextlib.closing(read_ahead(source, place)) as blocks:
        waiting = iter(spans)

        def feed() -> Iterator[Block]:
            for _, first, last in waiting:
                read = next(blocks)
                yield Block(Batches(read.inputs, read.labels, np.int32(first)), last)
                if last == program.steps:
                    return

        yield feed


def block_steps(steps: int, step_bytes: int) -> int:
    """How many steps a block has, so that an epoch is about equal blocks of `BLOCK_BYTES`."""
    most = min(max(BLOCK_BYTES // step_bytes, 1), steps)
    return math.ceil(steps / math.ceil(steps / most))


def cut(steps: int, epochs: int, block: int, first_epoch: int, first_step: int) -> Iterator[Span]:
    """The blocks of a phase from some step on; the first, and the last of an epoch, are shorter."""
    size = math.ceil(block / FIRST_SHARE)
    for epoch in range(first_epoch, epochs):
        while first_step < steps:
            last = min(first_step + size, steps)
            yield Span(epoch, first_step, last)
            first_step, size = last, block
        first_step = 0


class BlockSource:
    """The blocks of a phase by their number, on the host: a random access source of grain."""

    def __init__(
        self,
        records: Records,
        order: Callable[[int], jax.Array],
        spans: list[Span],
        steps: int,
        columns: np.ndarray,
    ) -> None:
        """Reads nothing yet.

        Args:
            records: the examples.
            order: epoch → its indices [steps, batch]; ~i stands for example i, not counted.
            spans: the blocks.
            steps: of a block; a shorter one has the same shape, and its last steps hold anything.
            columns: those of a batch that are read, int [columns].
        """
        self._records, self._order, self._spans, self._steps = records, order, spans, steps
        self._columns = columns

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Split:
        """Examples [steps, columns, ...]; DataError if they cannot be read."""
        epoch, first, last = self._spans[number]
        self._order(epoch + 1)  # drawn before the device is given the steps of this epoch
        indices = np.asarray(self._order(epoch))[first:last, self._columns]
        numbers = np.where(indices >= 0, indices, ~indices).reshape(-1)
        shape = self._steps, len(self._columns)
        found = self._records.read(numbers, rows=math.prod(shape))
        return host_split(*(array.reshape(*shape, *array.shape[1:]) for array in found))


def read_ahead(source: BlockSource, place: Callable[[Split], Split]) -> Any:
    """An iterator of the blocks on the device, which threads read ahead; `close` ends it."""
    import grain

    options = grain.ReadOptions(num_threads=BLOCKS_AHEAD, prefetch_buffer_size=BLOCKS_AHEAD)
    return iter(grain.MapDataset.source(source).map(place).to_iter_dataset(options))

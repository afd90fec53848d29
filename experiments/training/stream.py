"""Batches from where the training examples are: all on the device, or streamed from a file.

A streamed epoch is cut in blocks of steps, which grain reads ahead in threads and puts on the
device. Their order is that of `draw`, which seed and epoch decide: so a streamed run has the bits
of one whose examples are all on the device, and goes on at the same example after any step.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.records import Records
from experiments.data.task import Split, host_split
from experiments.training.draws import Draws
from experiments.training.program import Program

BLOCK_BYTES = 1 << 24
"""A block has about so many, and at least one step."""
BLOCKS_AHEAD = 2
"""So many blocks are read before they are needed, each by a thread."""


class Block(NamedTuple):
    """Examples on the device for some steps of an epoch.

    Attributes:
        train: the examples.
        draws: of the epoch, its indices into these examples; those of other steps mean nothing.
        last: the step before which the block ends.
    """

    train: Split
    draws: Draws
    last: int


class Span(NamedTuple):
    """The steps first … last − 1 of an epoch."""

    epoch: int
    first: int
    last: int


Feed = Callable[[Draws], Iterable[Block]]
"""The draws of the next epoch → its blocks, in order."""


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
        yield lambda draws: [Block(train, draws, program.steps)]
        return
    steps = block_steps(program.steps, program.config.batch_size * train.example_bytes)
    spans = list(cut(program.steps, program.spec.epochs, steps, first_epoch, first_step))
    with contextlib.closing(read_ahead(BlockSource(train, order, spans, steps))) as blocks:
        waiting = iter(spans)

        def feed(draws: Draws) -> Iterator[Block]:
            for _, first, last in waiting:
                yield Block(next(blocks), renumbered(draws, first), last)
                if last == program.steps:
                    return

        yield feed


def block_steps(steps: int, step_bytes: int) -> int:
    """How many steps a block has, so that an epoch is about equal blocks of `BLOCK_BYTES`."""
    most = min(max(BLOCK_BYTES // step_bytes, 1), steps)
    return math.ceil(steps / math.ceil(steps / most))


def cut(steps: int, epochs: int, block: int, first_epoch: int, first_step: int) -> Iterator[Span]:
    """The blocks of a phase from some step on; the last of an epoch may be shorter."""
    for epoch in range(first_epoch, epochs):
        for first in range(first_step, steps, block):
            yield Span(epoch, first, min(first + block, steps))
        first_step = 0


@jax.jit
def renumbered(draws: Draws, first: int) -> Draws:
    """The draws of an epoch, their indices those of a block that begins with the step `first`."""
    steps, batch = draws.indices.shape
    place = (jnp.arange(steps)[:, None] - first) * batch + jnp.arange(batch)
    return draws._replace(indices=jnp.where(draws.indices >= 0, place, ~place))


class BlockSource:
    """The blocks of a phase by their number, on the host: a random access source of grain.

    Of every batch it reads the part of one process: with N of them, process i reads the i-th N-th.
    """

    def __init__(
        self,
        records: Records,
        order: Callable[[int], jax.Array],
        spans: list[Span],
        steps: int,
        *,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """Reads nothing yet.

        Args:
            records: the examples.
            order: epoch → its indices [steps, batch]; ~i stands for example i, not counted.
            spans: the blocks.
            steps: of a block; a shorter one is filled up with zeros, to be of the same shape.
            process, processes: whose part of a batch, and of how many; they divide the batch.
        """
        self._records, self._order, self._spans, self._steps = records, order, spans, steps
        self._part = process, processes

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Split:
        """Examples [steps · batch / processes, ...]; DataError if they cannot be read."""
        epoch, first, last = self._spans[number]
        self._order(epoch + 1)  # drawn before the device is given the steps of this epoch
        indices = np.asarray(self._order(epoch))[first:last]
        process, processes = self._part
        share = indices.shape[1] // processes
        indices = indices[:, process * share : (process + 1) * share].reshape(-1)
        found = self._records.read(np.where(indices >= 0, indices, ~indices))
        missing = (self._steps - (last - first)) * share
        if not missing:
            return found
        return host_split(*(np.pad(a, [(0, missing), *[(0, 0)] * (a.ndim - 1)]) for a in found))


def read_ahead(source: BlockSource) -> Any:
    """An iterator of the blocks on the device, which threads read ahead; `close` ends it."""
    import grain

    options = grain.ReadOptions(num_threads=BLOCKS_AHEAD, prefetch_buffer_size=BLOCKS_AHEAD)
    blocks = grain.MapDataset.source(source).map(lambda block: Split(*map(jnp.asarray, block)))
    return iter(blocks.to_iter_dataset(options))

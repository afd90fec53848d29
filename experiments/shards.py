"""A part of a grid's cells, so that several processes or machines share one grid."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Shard:
    """The shard `index` of `count`, from 0 on as Slurm counts the tasks of an array."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def cells(self, cells: Sequence[T]) -> list[T]:
        """Every `count`-th cell, from `index` on; each cell belongs to one shard."""
        return list(cells[self.index :: self.count])


WHOLE = Shard(0, 1)


def parse_shard(text: str) -> Shard:
    """i/n → the shard i of n, 0 ≤ i < n; ArgumentTypeError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    shard = Shard(int(match[1]), int(match[2])) if match else None
    if shard is None or shard.index >= shard.count:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected i/n with 0 <= i < n, such as 0/4 to 3/4 for four processes"
        )
    return shard

"""How many cells of a grid are done, how many are left, and how long these will take."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from experiments.config import Config, total_epochs
from experiments.names import run_name
from experiments.run_folder import folder_of, is_intact, read_finished, read_metrics


@dataclasses.dataclass
class _Mean:
    """Of the seconds of finished cells, and of their sizes."""

    cells: int = 0
    seconds: float = 0.0
    size: float = 0.0

    def add(self, seconds: float, size: float) -> None:
        self.cells += 1
        self.seconds += seconds
        self.size += size


class Remaining:
    """What is left of some cells, kept up to date while they train.

    A cell takes as long as the finished ones of its network, epochs and kind on average; where
    there are none, as long as all finished ones did for an epoch and a unit of their widths.

    Args:
        configs: the cells of this process; complete folders count as done.
        clock: seconds, as time.monotonic.
    """

    def __init__(
        self, configs: Sequence[Config], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.configs = list(configs)
        self.done: set[Config] = set()
        self.stopped: set[Config] = set()
        self._clock, self._last = clock, clock()
        self._all, self._alike = _Mean(), dict[Any, _Mean]()
        for config in self.configs:
            if is_intact(folder_of(config)):
                self._add(config, read_finished(folder_of(config)).summary.get("seconds", 0.0))

    def ended(self, configs: Sequence[Config]) -> bool:
        """Counts cells that ended, together; False if all of them were done before."""
        passed, self._last = self._clock() - self._last, self._clock()
        fresh = [config for config in configs if config not in self.done | self.stopped]
        for config in fresh:
            if not is_intact(folder_of(config)):
                self.stopped.add(config)
                continue
            trained = read_finished(folder_of(config)).summary.get("seconds", 0.0)
            # What passed holds loading and compiling too; of a resumed cell it holds a part only.
            self._add(config, max(trained, passed / len(fresh)))
        return bool(fresh)

    def _add(self, config: Config, seconds: float) -> None:
        self.done.add(config)
        for mean in (self._all, self._alike.setdefault(_kind(config), _Mean())):
            mean.add(seconds, _size(config))

    def left(self) -> list[Config]:
        """The cells that are neither done nor stopped."""
        return [c for c in self.configs if c not in self.done and c not in self.stopped]

    def seconds(self, config: Config) -> float | None:
        """How long a cell that is left will take; None while no cell is done."""
        if not self._all.cells:
            return None
        alike = self._alike.get(_kind(config))
        whole = (
            alike.seconds / alike.cells
            if alike
            else self._all.seconds / self._all.size * _size(config)
        )
        return whole * (1 - epochs_done(config) / total_epochs(config))

    def line(self) -> str:
        """One line: 12 of 90 cells done, 78 left: about 3 h 20 min."""
        left = self.left()
        told = f"{len(self.done)} of {len(self.configs)} cells done, {len(left)} left"
        if self.stopped:
            told += f", {len(self.stopped)} stopped"
        if not left:
            return told
        times = [self.seconds(config) for config in left]
        if None in times:
            return f"{told}: how long is known after the first"
        return f"{told}: about {duration(sum(filter(None, times)))}"

    def rows(self) -> list[dict[str, str]]:
        """A row per cell: its folder's name, how far it is, and how long it will take."""
        rows = []
        for config in self.configs:
            epochs, seconds = epochs_done(config), self.seconds(config)
            state = f"{epochs} of {total_epochs(config)} epochs" if epochs else "not begun"
            done = config in self.done
            rows.append(
                {
                    "cell": folder_of(config).name or run_name(config),
                    "state": "done" if done else state,
                    "left": "" if done or seconds is None else duration(seconds),
                }
            )
        return rows


def epochs_done(config: Config) -> int:
    """Of which the folder has a row."""
    return len(read_metrics(folder_of(config)))


def _kind(config: Config) -> tuple[Any, ...]:
    """What the time of a cell depends on, for the most part."""
    names = ("task", "network", "widths", "batch_size", "steps_per_epoch", "has_choices")
    return total_epochs(config), *(getattr(config, name) for name in names)


def _size(config: Config) -> float:
    return total_epochs(config) * (sum(config.widths) if config.network == "mlp" else 1)


def duration(seconds: float) -> str:
    """40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"

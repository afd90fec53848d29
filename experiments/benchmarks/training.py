"""Real training runs, watched: when each epoch's compiled program was at work."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import data
from experiments.data.datasets import DATASETS
from experiments.data.images import write_npz
from experiments.report import format_table
from experiments.training import step
from experiments.training.outcome import environment


class Span(NamedTuple):
    """One epoch: its phase, and from when to when its program was at work, in seconds."""

    phase: str
    begun: float
    ended: float


@contextlib.contextmanager
def watched() -> Iterator[list[Span]]:
    """Fills the list with every epoch trained inside; it is complete when the block ends.

    A thread waits for each epoch, so that the loop is not slowed and overlaps as ever. An epoch
    begins when it is dispatched and the one before has ended.
    """
    spans: list[Span] = []
    waiting: list[tuple[str, float, Future[float]]] = []
    steps_function, end_epoch = step.steps_function, step.end_epoch
    begun: list[float] = []

    def wait(loss: jax.Array) -> float:
        loss.block_until_ready()
        return time.perf_counter()

    with ThreadPoolExecutor(1) as watcher:

        def watched_steps(program: Any) -> Any:
            run_steps = steps_function(program)

            def run(*arguments: Any) -> Any:
                if len(begun) == len(waiting):  # the first steps of an epoch
                    begun.append(time.perf_counter())
                return run_steps(*arguments)

            return run

        def watched_end(program: Any, *arguments: Any) -> Any:
            state, metrics = end_epoch(program, *arguments)
            ended = watcher.submit(wait, metrics["train_loss"])
            waiting.append((program.spec.name, begun[-1], ended))
            return state, metrics

        step.steps_function, step.end_epoch = watched_steps, watched_end  # type: ignore[assignment]
        try:
            yield spans
        finally:
            step.steps_function, step.end_epoch = steps_function, end_epoch
            last = 0.0
            for phase, start, ended in waiting:
                spans.append(Span(phase, max(start, last), ended.result()))
                last = spans[-1].ended


def find_data(task: str, folder: Path, *, small: bool) -> str | None:
    """The data directory for a task: the usual one, or random images of its shape in `folder`.

    Args:
        small: random images in any case, and few of them.
    """
    if not small:
        try:
            data.load(task, download=False)
            return None
        except data.DataError:
            pass
    facts, rng = DATASETS[task], np.random.default_rng(0)
    classes = facts.class_names.split(",")
    train_size, test_size = (1_280, 500) if small else facts.counts

    def images(count: int) -> np.ndarray:
        return rng.integers(0, int(facts.scale) + 1, (count, *facts.shape), np.uint8)

    random = data.Dataset(
        name=task,
        train_inputs=images(train_size),
        train_labels=np.arange(train_size, dtype=np.int32) % len(classes),
        test_inputs=images(test_size),
        test_labels=np.arange(test_size, dtype=np.int32) % len(classes),
        class_names=tuple(classes),
        scale=facts.scale,
        source="random images",
    )
    write_npz(random, folder / f"{task}.npz")
    return str(folder)


def publish(
    command: str, results: Sequence[Mapping[str, Any]], notes: Sequence[str], out: Path | None
) -> None:
    """Prints the results as a table and writes them as JSON."""
    place = environment()
    cells = [
        {name: f"{x:.4g}" if isinstance(x, float) else x for name, x in row.items()}
        for row in results
    ]
    print(f"{command}\n{place['device']}, jax {place['jax']}, {place['date']}\n")
    print(format_table(cells))
    for note in notes:
        print(note)
    if out is not None:
        record = {"command": command, "environment": place, "results": results, "notes": notes}
        out.write_text(json.dumps(record, indent=2) + "\n")

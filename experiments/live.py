"""Runs while they train, in TensorBoard or Weights & Biases.

    python -m experiments.live FOLDER ... --tensorboard FOLDER | --wandb PROJECT [--once]

Looks every few seconds, until Ctrl-C, at the run folders in and below each FOLDER, also those that
begin later, and hands on what is new: an epoch's losses, scores, rates and what each layer chose;
with a checkpoint of phase 1 its logits, and every neuron's choice as a picture; after the switch
the picture of what was fixed; at the end the test results. It reads only, so that a run is the same
with it and without. `experiments.run` and `experiments.grid` take the same two options and look at
their own runs. Needs `pip install -r requirements-live.txt`.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.checkpoints import Checkpoints, DamagedCheckpoint, Moment
from experiments.command_line import Parser, exit_status
from experiments.figures.neuron_map import choice_map
from experiments.run_folder import (
    CONFIG,
    LayerChoices,
    RunData,
    RunError,
    is_complete,
    read_choices,
    read_config,
    read_finished,
    read_metrics,
    read_selection,
)

LOG = logging.getLogger(__name__)
SECONDS = 3.0
"""Between two looks."""
NOT_CURVES = {"epoch", "phase", "phase_epoch", "layers"}
"""Of a row of metrics.jsonl."""


class Writer(Protocol):
    """Where the numbers and pictures of one run go."""

    def numbers(self, numbers: Mapping[str, float], epoch: int) -> None:
        """By name."""

    def values(self, name: str, values: np.ndarray, epoch: int) -> None:
        """As a histogram."""

    def picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """uint8 [H, W, 3]."""

    def close(self) -> None:
        """All is written."""


class TensorBoard:
    """Event files of a run, in a folder of its own; what an earlier follower wrote is replaced."""

    def __init__(self, folder: Path) -> None:
        self._writer = importlib.import_module("tensorboardX").SummaryWriter(
            str(folder), purge_step=0
        )

    def numbers(self, numbers: Mapping[str, float], epoch: int) -> None:
        """See `Writer`."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, epoch)

    def values(self, name: str, values: np.ndarray, epoch: int) -> None:
        """See `Writer`."""
        self._writer.add_histogram(name, values, epoch)

    def picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """See `Writer`."""
        self._writer.add_image(name, pixels, epoch, dataformats="HWC")

    def close(self) -> None:
        """See `Writer`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a project; the same run goes on where an earlier follower stopped."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any]) -> None:
        self._module = importlib.import_module("wandb")
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._run = self._module.init(
            project=project, name=name, id=key, resume="allow", config=dict(config),
            reinit="create_new",
        )  # fmt: skip
        self._begun = int(self._run.step)

    def numbers(self, numbers: Mapping[str, float], epoch: int) -> None:
        """See `Writer`."""
        self._log(dict(numbers), epoch)

    def values(self, name: str, values: np.ndarray, epoch: int) -> None:
        """See `Writer`."""
        self._log({name: self._module.Histogram(values)}, epoch)

    def picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """See `Writer`."""
        self._log({name: self._module.Image(pixels)}, epoch)

    def _log(self, content: dict[str, Any], epoch: int) -> None:
        if epoch >= self._begun:  # earlier steps are there, and cannot be written again
            self._run.log(content, step=epoch)

    def close(self) -> None:
        """See `Writer`."""
        self._run.finish()


class Follower:
    """What of one run was handed on.

    Args:
        folder: of the run, with config.json.
        writers: where it goes.
    """

    def __init__(self, folder: Path, writers: Sequence[Writer]) -> None:
        self._folder = folder
        self._config: Any = read_config(folder)
        self._writers = writers
        self._epochs = 0
        self._moment: Moment | None = None
        self._switched = self._ended = False

    def look(self) -> None:
        """Hands on what is new; files that are being written wait for the next look."""
        if self._ended:
            return
        complete = is_complete(self._folder)  # before the rows are read: then they are all there
        for row in read_metrics(self._folder)[self._epochs :]:
            self._epochs = row["epoch"]
            self._number(curves(row))
        if not self._switched:
            self._look_at_choices()
        if complete:
            self._number(results(read_finished(self._folder).summary))
            self._ended = True

    def _look_at_choices(self) -> None:
        choices, logits = read_choices(self._folder), read_selection(self._folder)
        if choices is not None and logits is not None:
            self._switched = True
            self._draw(choices, logits, "choices/fixed")
            return
        with Checkpoints(self._folder) as checkpoints:
            moment = max(checkpoints.moments(), default=None)
            if moment is None or moment == self._moment:
                return
            try:
                logits = checkpoints.restore_logits(moment)
            except (DamagedCheckpoint, RunError):  # removed meanwhile, or not whole yet
                return
        self._moment = moment
        pool = tuple(self._config.activation_pool.names)
        for path, layer in logits.items():
            for writer in self._writers:
                writer.values(f"logits/{path}", layer, self._epochs)
        if logits:
            choices = {p: LayerChoices(pool, layer.argmax(-1)) for p, layer in logits.items()}
            self._draw(choices, logits, "choices/phase_1")

    def _draw(
        self, choices: dict[str, LayerChoices], logits: dict[str, np.ndarray], name: str
    ) -> None:
        pixels = drawn(choice_map(RunData(self._config, [], choices, logits)))
        for writer in self._writers:
            writer.picture(name, pixels, self._epochs)

    def _number(self, numbers: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.numbers(numbers, self._epochs)

    def close(self) -> None:
        """Nothing more comes."""
        for writer in self._writers:
            writer.close()


def drawn(figure: Figure) -> np.ndarray:
    """uint8 [H, W, 3]."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch, by the names that they have in TensorBoard: kind/name."""
    found = {}
    for name, number in row.items():
        if name not in NOT_CURVES:
            part, _, rest = name.partition("_")
            split = part in ("train", "validation")
            found[f"{rest}/{part}" if split else f"training/{name}"] = float(number)
    for path, layer in row["layers"].items():
        for function, share in layer["shares"].items():
            found[f"share_{path}/{function}"] = float(share)
        for name in ("max_probability", "entropy", "undecided"):
            if name in layer:
                found[f"{name}/{path}"] = float(layer[name])
    return found


def results(summary: Mapping[str, Any]) -> dict[str, float]:
    """The test results of a finished run, of every phase."""
    return {
        f"{name}/{phase['name']}": float(number)
        for phase in summary["phases"]
        for name, number in phase.items()
        if name.startswith("test_")
    }


# Following


def add_options(parser: argparse.ArgumentParser) -> None:
    """--tensorboard and --wandb."""
    group = parser.add_argument_group("live view (pip install -r requirements-live.txt)")
    group.add_argument(
        "--tensorboard", type=Path, metavar="FOLDER", help="event files there: tensorboard --logdir"
    )
    group.add_argument("--wandb", metavar="PROJECT", help="a run of Weights & Biases for each run")


class Live:
    """Follows all runs in and below some folders.

    Args:
        folders: of runs, or above; they need not be there yet.
        tensorboard: where the event files go; None: nowhere.
        wandb: the project; None: none.

    Raises:
        ValueError: a package is missing.
    """

    def __init__(
        self, folders: Sequence[Path], tensorboard: Path | None, wandb: str | None
    ) -> None:
        self._folders, self._tensorboard, self._wandb = folders, tensorboard, wandb
        self._followers: dict[Path, Follower] = {}
        for package, wanted in (("tensorboardX", tensorboard), ("wandb", wandb)):
            if wanted is not None and importlib.util.find_spec(package) is None:
                raise ValueError(f"this needs {package}: pip install -r requirements-live.txt")

    def look(self) -> None:
        """Hands on what is new of every run."""
        for top in self._folders:
            for config in sorted(top.glob(f"**/{CONFIG}")):  # its own too
                folder = config.parent
                if folder not in self._followers:
                    self._followers[folder] = Follower(folder, self._writers(folder))
        for follower in self._followers.values():
            follower.look()

    def _writers(self, folder: Path) -> list[Writer]:
        name = f"{folder.parent.name}/{folder.name}"
        writers: list[Writer] = []
        if self._tensorboard is not None:
            writers.append(TensorBoard(self._tensorboard / name))
        if self._wandb is not None:
            config = vars(read_config(folder))
            writers.append(WeightsAndBiases(self._wandb, name, config))
        return writers

    def close(self) -> None:
        """Nothing more comes."""
        for follower in self._followers.values():
            follower.close()


@contextlib.contextmanager
def following(
    folders: Sequence[Path], tensorboard: Path | None, wandb: str | None
) -> Iterator[None]:
    """Follows the runs from a thread meanwhile; with neither option, nothing."""
    if tensorboard is None and wandb is None:
        yield
        return
    live, ended = Live(folders, tensorboard, wandb), threading.Event()

    def follow() -> None:
        try:
            last = False
            while not last:
                last = ended.wait(SECONDS)
                live.look()
            live.close()
        except Exception as error:  # whatever a writer meets, the training goes on
            LOG.warning("the live view has ended: %s: %s", type(error).__name__, error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main(arguments: Sequence[str]) -> int:
    """Follows; returns the exit status."""
    parser = Parser(prog="python -m experiments.live", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--once", action="store_true", help="write what there is, and end")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.tensorboard is None and options.wandb is None:
        parser.error("expected --tensorboard or --wandb")

    def work() -> int:
        live, asked = Live(options.folders, options.tensorboard, options.wandb), threading.Event()
        try:
            live.look()
            while not (options.once or asked.wait(SECONDS)):
                live.look()
        finally:
            live.close()
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

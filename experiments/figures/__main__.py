"""Draws the figures of run folders: `python -m experiments.figures RUN ...`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import Parser, exit_status
from experiments.figures.drawing import draw_figures


def main(arguments: Sequence[str]) -> int:
    """Draws the figures of every folder named; returns the exit status."""
    parser = Parser(
        prog="python -m experiments.figures",
        description="Draws the figures of runs, each as PNG and SVG in the run's figures/. "
        "Those that would not\nchange stay.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--force", action="store_true", help="draw them even so")
    options = parser.parse_args(arguments)

    def work() -> int:
        for folder in options.folders:
            print(*draw_figures(folder, force=options.force), sep="\n")
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

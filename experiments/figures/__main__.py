"""Draws the figures of run folders: `python -m experiments.figures RUN_DIR ...`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.figures.drawing import draw_figures


def main(arguments: Sequence[str]) -> int:
    """Draws the figures of every folder named; returns the exit status."""
    if not arguments:
        print("usage: python -m experiments.figures RUN_DIR ...", file=sys.stderr)
        return 2
    try:
        for folder in map(Path, arguments):
            print(*draw_figures(folder), sep="\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Loads an image set and may keep it: `python -m experiments.data NAME --out FILE.npz`."""

import sys
from collections.abc import Sequence

from experiments.command_line import Parser, exit_status
from experiments.data.datasets import ARRAYS, DATASETS
from experiments.data.images import load, write_npz


def main(arguments: Sequence[str]) -> int:
    """Loads a set and says what it holds; returns the exit status."""
    parser = Parser(
        prog="python -m experiments.data",
        description="Loads a data set; --out keeps it as one file.",
    )
    parser.add_argument("name", help=", ".join(DATASETS))
    parser.add_argument("--data-dir", help="default: TFDS_DATA_DIR, else ~/tensorflow_datasets")
    parser.add_argument("--cache-dir", help="default: SMARTMIXED_CACHE, else ~/.cache/...")
    parser.add_argument("--out", help="write the arrays to this .npz file")
    options = parser.parse_args(arguments)

    def work() -> int:
        dataset = load(options.name, options.data_dir, cache_dir=options.cache_dir)
        for key in ARRAYS:
            print(f"{key} {getattr(dataset, key).dtype} {list(getattr(dataset, key).shape)}")
        print(f"source: {dataset.source}")
        if options.out:
            write_npz(dataset, options.out)
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

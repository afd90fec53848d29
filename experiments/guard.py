"""Does a rebuilt program compute the same bits? Trains the small runs of `JOBS` with two commits.

    python -m experiments.guard 43c9ace .            # a commit and the working tree, compared
    python -m experiments.guard record new.json      # the working tree; --commit REV for another
    python -m experiments.guard compare old.json new.json

A record has every number that a run leaves in JSON files, exactly as written, and dtype, shape and
SHA-256 (16 digits) of its arrays: checkpoints, logits, fit. The same program gives the same bits on
one type of machine with the same packages only, so the usual use is the first form, which trains
both commits here and says how far their arrays are apart; results/guard/43c9ace.json is the record
of the commit before the rebuilding. Some runs are killed or cut short and resumed, too, and must
end like the undisturbed ones.

A record takes 11 minutes of CPU time, 6 minutes on two free cores; --only NAME ... takes some of
the jobs, --data-dir DIR with a prepared tiny_shakespeare adds the Transformer's. The working tree
is `.`, files that git ignores left out. The exit status is 1 if anything differs that the tables
below do not name, or anything failed.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from experiments.guard_records import flat, read_record, text_of, write_record
from experiments.guard_runs import GuardError, Job, Option, make_record

# What may change. A value's name is RUN/FILE/KEY/..., such as
# product_sine/checkpoints/4/state/params/weights/layers/0/kernel; * stands for any text.

OPTIONS = (
    Option("--choices", "--control"),
    Option("--controls", "--control"),
    # Jobs give STEPS/STEPS_OF_THE_RUN.
    Option(
        "--warmup-steps",
        "--warmup",
        lambda steps: steps.split("/")[0],
        lambda steps: str(float(Fraction(steps))),
    ),
    *(Option("", name) for name in ("--estimator", "--start", "--draws", "--final-noise")),
)
"""Options of `JOBS` with a new spelling, which a program gets if its --help has it."""

RENAMED = (
    (r"/value$", ""),
    (r"/logits$", "/selection_logits"),
    (r"/config/choices$", "/config/control"),
    (r"/position/position/", "/position/"),
    (r"/state/state/", "/state/"),
    (r"/position/phase$", "/position/phase_index"),
    (r"/position/epoch$", "/position/phase_epoch"),
)
"""Patterns in names and their replacements, applied in turn to both records."""

ONLY_IN_ONE = (
    *(f"*/config/{name}" for name in ("carry_moments", "warmup", "warmup_steps")),
    *(f"*/config/{name}" for name in ("target", "target_kind", "inputs", "inputs/*")),
    *(f"*/config/{name}" for name in ("split_column", "test_fraction", "range", "range/*")),
    *(f"*/config/{name}" for name in ("estimator", "noise", "final_noise", "draws", "start")),
    *(f"*/config/{name}" for name in ("start_probability", "drop_worse", "logit_warmup")),
    *(f"*/config/{name}" for name in ("clip_together", "fix_when", "layer_by_layer")),
    *(f"*/config/{name}" for name in ("fix_share", "fix_patience", "retries")),
    *(
        f"*/config/{name}"
        for name in ("refine_epochs", "points", "label_noise", "derivative_weight")
    ),
    *(f"*/config/{name}" for name in ("devices", "model_axis", "stream")),
    *(f"*/position/{name}" for name in ("format", "leaves/*", "phase_step", "retries")),
    *(f"*/state/{name}/*" for name in ("sums", "before", "switch")),
    "*/task/*",
    "*/fit/center",  # of the points: zero for the functions before own ranges
)
"""Names after renaming of what one program may leave and the other not."""

_ONE_STATISTIC = "float32, as in the rows of an epoch; before, the switch had it in float64"
EXPLAINED: dict[str, str] = {
    "*/switch/layers/*/max_probability": _ONE_STATISTIC,
    "*/switch/layers/*/entropy": _ONE_STATISTIC,
    "*/switch/layers/*/undecided": _ONE_STATISTIC,
    "grid*/uniform:*/config/logit_learning_rate": "an option without effect keeps its default",
    "grid*/uniform:*/config/final_temperature": "an option without effect keeps its default",
    "grid*/uniform:*/metrics/*/temperature": "the same: nothing in the network depends on it",
}
"""Names after renaming → why the values differ; LOG.md says it at length."""

# What is trained, the slow ones first: one job per kind of task, network, preset and control.

# Phase 1 of `recommended` as the older of the two commits has it.
_PAPER = "--estimator gumbel_straight_through --start none --temperature 2 --final-temperature 0.5"
_SMALL = "--hidden 16 12 --selective-epochs 2 --mixed-epochs 2 --logit-learning-rate 0.1"
_PRESET = f"run --task digits {_SMALL}"
_DIGITS = f"{_PRESET} {_PAPER}"
_FIT = f"run --task function:product_sine --steps-per-epoch 20 {_SMALL}"
_SLOWLY = f"{_PAPER} --learning-rate 3e-3 --clip 1 --draws 1 --final-noise 1"
_PRODUCT_SINE = f"{_FIT} {_SLOWLY}"
_GRID = (
    f"grid --task digits {_SMALL} {_PAPER} --seeds 0 1 --methods two_phase uniform:relu --controls"
)

JOBS = {
    "resnet20": Job(  # the last batch of its 7 steps per epoch is short
        f"run --task cifar10 {_PAPER} --data-dir IMAGES --batch-size 32 --selective-epochs 1 "
        "--mixed-epochs 3 --warmup-steps 7/28 --checkpoint-seconds 0",
        disturbed="cut",
    ),
    "transformer": Job(
        f"run --task tiny_shakespeare {_PAPER} --data-dir DATA --steps-per-epoch 4 "
        "--selective-epochs 2 --mixed-epochs 1 --warmup-steps 3/12 --checkpoint-seconds 0",
        disturbed="cut",
    ),
    "grid": Job(f"{_GRID} learned shuffled random majority"),
    "grid_at_once": Job(f"{_GRID} learned shuffled --at-once 2"),
    "digits": Job(
        f"run --task digits {_PAPER} --hidden 16 12 --selective-epochs 6 --mixed-epochs 2 "
        "--logit-learning-rate 0.1 --checkpoint-seconds 0",
        disturbed="killed",
    ),
    "product_sine": Job(f"{_PRODUCT_SINE} --checkpoint-seconds 0", disturbed="cut"),
    "conv": Job(f"run --task digits {_PAPER} --network conv --selective-epochs 1 --mixed-epochs 2"),
    "mnist": Job(f"run --task mnist --data-dir IMAGES {_SMALL} {_PAPER}"),
    "described": Job(f"{_PRESET} --preset described"),
    "published": Job(f"{_PRESET} --preset published"),
    "new_weights": Job(f"{_DIGITS} --no-carry-weights --choices shuffled"),
    "variance_matched": Job(f"{_DIGITS} --variance-matched"),
    "bfloat16": Job(f"{_DIGITS} --dtype bfloat16"),
    "lowest_loss": Job(f"{_DIGITS} --select-epoch lowest_loss"),
    "extended_pool": Job(f"{_DIGITS} --pool extended"),
    "regression_pool": Job(f"{_DIGITS} --pool regression"),
    "product_sine_described": Job(f"{_FIT} --preset described"),
    "product_sine_published": Job(f"{_FIT} --preset published"),
    "ratio": Job(f"run --task function:ratio --steps-per-epoch 20 {_SMALL} {_SLOWLY}"),
}


def renamed(name: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run by their names after all renamings."""
    result: dict[str, Any] = {}
    for key, value in flat(run).items():
        key = f"{name}/{key}"
        for pattern, new in RENAMED:
            key = re.sub(pattern, new, key)
        if key in result:
            raise GuardError(f"RENAMED gives two values the name {key}")
        result[key] = value
    return result


def differences(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """What differs between two records of a run, and why it may; "" if it may not."""
    for when, run in ("old", old), ("new", new):
        if not run or "failed" in run:
            yield f"{name}: {run.get('failed', 'missing')} in the {when} record", ""
            return
        if not run.get("resumed", {}).get("equal", True):
            yield f"{name}/resumed: unlike the undisturbed run in the {when} record", ""
    one, other = renamed(name, old), renamed(name, new)
    added = {text_of(value): key for key, value in other.items() if key not in one}
    for key in one | other:
        reasons = [why for glob, why in EXPLAINED.items() if fnmatchcase(key, glob)]
        if key in one and key in other:
            # As text: NaN equals NaN, and 0.0 differs from 0 and from -0.0.
            before, after = text_of(one[key]), text_of(other[key])
            if before == after:
                continue
            text = f"{key}: {before} → {after}{_distance(one[key], other[key])}"
        else:
            reasons += ["in one only" for glob in ONLY_IN_ONE if fnmatchcase(key, glob)]
            text = f"{key}: only in the {'old' if key in one else 'new'} record"
            if key in one and text_of(one[key]) in added:
                text += f"; the new one has its value in {added[text_of(one[key])]}"
        yield text, reasons[0] if reasons else ""


def _distance(old: Any, new: Any) -> str:
    """How far two arrays are apart, where a comparison has them."""
    if not isinstance(old, np.ndarray) or not isinstance(new, np.ndarray):
        return ""
    if old.shape != new.shape or old.dtype.kind not in "biuf" or not old.size:
        return ""
    largest = np.abs(old.astype(np.float64) - new.astype(np.float64)).max()
    return f", largest difference {largest:.3g}, largest value {np.abs(old).max():.3g}"


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], *, only: Sequence[str], limit: int
) -> bool:
    """Prints per run "equal" or up to `limit` differences; returns whether all may differ.

    With `only`, the runs of these jobs.
    """
    print(f"old: {old['commit']}\nnew: {new['commit']}")
    if old["packages"] != new["packages"]:
        print(f"note: other packages, {old['packages']} and {new['packages']}")
    names = list(old["runs"] | new["runs"])
    names = [name for name in names if name.partition("/")[0] in only or not only]
    ok = bool(names)  # nothing compared is nothing shown
    for name in names:
        found = list(differences(name, old["runs"].get(name, {}), new["runs"].get(name, {})))
        bad = [text for text, reason in found if not reason]
        ok = ok and not bad
        why = ", ".join(dict.fromkeys(reason for _, reason in found if reason))
        allowed = f" ({len(found) - len(bad)} allowed: {why})" if why else ""
        print(f"{name}: {f'{len(bad)} DIFFER' if bad else 'equal'}{allowed}")
        for text in bad[:limit]:
            print(f"    {text}")
        if len(bad) > limit:
            print(f"    ... and {len(bad) - limit} more, see --limit")
    print("equal" if ok else "NOT EQUAL")
    return ok


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; two revisions alone are `commits REV REV`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.guard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common, training, comparing = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    common.add_argument("--only", nargs="+", choices=JOBS, default=[], metavar="NAME")
    training.add_argument("--data-dir", help="with prepared tiny_shakespeare; skipped without")
    training.add_argument("--jobs", type=int, default=2, metavar="N", help="N at a time; default 2")
    comparing.add_argument("--limit", type=int, default=20, help="differences shown per run")
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", parents=[common, training])
    record.add_argument("out", type=Path)
    record.add_argument("--commit", default=".", metavar="REV", help="default: the working tree")
    for name, parents in {"compare": [], "commits": [training]}.items():
        command = commands.add_parser(name, parents=[common, comparing, *parents])
        command.add_argument("old")
        command.add_argument("new")
    if arguments and arguments[0] not in (*commands.choices, "-h", "--help"):
        arguments = ["commits", *arguments]
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    options = parse(arguments)
    if options.command == "compare":
        old, new = (read_record(Path(path)) for path in (options.old, options.new))
        return 0 if compare(old, new, only=options.only, limit=options.limit) else 1
    jobs = {name: job for name, job in JOBS.items() if name in options.only or not options.only}
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:

        def record(commit: str) -> dict[str, Any]:
            data_dir, workers = options.data_dir, options.jobs
            return make_record(
                commit, Path(folder), jobs, OPTIONS, data_dir=data_dir, workers=workers
            )

        if options.command == "commits":
            old, new = record(options.old), record(options.new)
            return 0 if compare(old, new, only=options.only, limit=options.limit) else 1
        written = record(options.commit)
        write_record(written, options.out)
        # A record equals itself unless something failed or a resumed run ended otherwise.
        return int(any(list(differences(name, run, run)) for name, run in written["runs"].items()))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (GuardError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

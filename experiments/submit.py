"""Shares a grid among jobs of Slurm, or local processes: `python -m experiments.submit --help`.

    python -m experiments.submit --jobs 4 --cluster slurm --set timeout_min=240 gpus_per_node=1 \\
        -- --task mnist --seeds 0 1 2 --control learned random

Behind -- are the options of experiments.grid. Job i has the shard i/N; the same command again
resumes. A job that Slurm ends for its time, or for another job, is queued again and resumes. Local
jobs are waited for, and then the grid is compared.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import grid
from experiments.command_line import Parser, exit_status
from experiments.run_folder import RunError
from experiments.shards import Shard


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What a job does: the grid's command for one shard.

    Attributes:
        arguments: of experiments.grid.
        shard: of this job.
    """

    arguments: tuple[str, ...]
    shard: Shard

    def __call__(self) -> None:
        """Trains; RunError if the command ends with another status than 0."""
        status = grid.main([*self.arguments, "--shard", str(self.shard)])
        if status:
            raise RunError(f"shard {self.shard} ended with status {status}")

    def checkpoint(self) -> Any:
        """What submitit queues again when Slurm ends the job: the same, which resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def setting(text: str) -> tuple[str, str | int]:
    """NAME=VALUE → name and value, a number where it is one; ValueError without either."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise ValueError
    return name, int(value) if value.isdigit() else value


def make_executor(cluster: str, logs: Path, settings: dict[str, str | int]) -> Any:
    """The executor of submitit.

    Raises:
        RunError: submitit is not installed, there is no such cluster here, or it does not know a
            setting.
    """
    try:
        import submitit
    except ImportError as error:
        raise RunError(f"{error}: pip install -r requirements-slurm.txt") from error
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**settings)
    except Exception as error:  # whatever submitit raises
        raise RunError(f"{cluster}: {error}") from error
    return executor


def main(arguments: Sequence[str]) -> int:
    """Submits the jobs; returns the exit status."""
    parser = Parser(
        prog="python -m experiments.submit",
        usage="%(prog)s [OPTION ...] -- [OPTION OF experiments.grid ...]",
        description="Shares a grid among jobs of Slurm, or local processes.",
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many [2]")
    parser.add_argument("--cluster", choices=("local", "slurm"), default="local", help="[local]")
    parser.add_argument("--logs", type=Path, default=Path("runs/submitted"), help="%(default)s")
    parser.add_argument(
        "--set",
        type=setting,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of submitit, such as timeout_min=240 slurm_partition=gpu",
    )
    own, given = split_arguments(arguments)
    options = parser.parse_args(own)
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: expected at least 1")

    def work() -> int:
        wanted = grid.parse_arguments(given)  # a wrong option is said here, and nothing submitted
        if wanted.shard.count > 1:
            raise ValueError(f"--shard {wanted.shard}: the jobs have their own")
        settings = {"timeout_min": 240, "name": "grid", **dict(options.set)}
        executor = make_executor(options.cluster, options.logs, settings)
        with executor.batch():
            jobs = [
                executor.submit(ShardJob(tuple(given), Shard(index, options.jobs)))
                for index in range(options.jobs)
            ]
        for job in jobs:
            print(f"job {job.job_id}: {job.paths.stdout}", flush=True)
        if options.cluster == "slurm":
            return 0
        failed = sum(report_failure(job) for job in jobs)
        grid.compare_complete(wanted.configs)
        return min(failed, 1)

    return exit_status(work)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first -- and what behind it."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:place]), list(arguments[place + 1 :])


def report_failure(job: Any) -> bool:
    """Waits for a job; whether it failed, and then a line on stderr says where its log is."""
    error = job.exception()
    if error is not None:
        print(f"error: job {job.job_id} failed: {job.paths.stderr}", file=sys.stderr)
    return error is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

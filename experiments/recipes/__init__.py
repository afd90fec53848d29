"""One program per published result; its docstring says what it reproduces and how long it takes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import figures
from experiments.command_line import Parser, exit_status
from experiments.config import Config
from experiments.grid import crossed, start_from, train_and_compare
from experiments.names import reset_without_effect
from experiments.run_folder import folder_of
from experiments.training.compilation import keep_compilations

__all__ = ["AS_IT_WAS", "Parser", "Study", "crossed", "run_all", "run_studies", "study"]

AS_IT_WAS: dict[str, Any] = {
    "estimator": "gumbel_straight_through",
    "draws": 1,
    "noise": 1.0,
    "final_noise": 1.0,
    "temperature": 2.0,
    "final_temperature": 0.5,
    "start": "none",
    "carry_moments": False,
}
"""Phase 1 of `recommended` up to 2026-11-25, the method of the paper."""


class Study(NamedTuple):
    """A task, its methods and seeds: what one table compares.

    Attributes:
        base: the preset's values.
        seeds: of every method; runs of a seed are paired.
        variants: by name, what each changes: first `learned` and its controls.
    """

    base: Config
    seeds: tuple[int, ...]
    variants: Mapping[str, Mapping[str, Any]]

    def configs(self, *names: str) -> list[Config]:
        """The runs of the named variants, or of all, without options that change nothing."""
        variants = [self.variants[name] for name in names or self.variants]
        return [reset_without_effect(c) for c in crossed(self.base, variants, self.seeds)]


def study(
    base: Config,
    seeds: Iterable[int],
    *,
    uniform: Iterable[str],
    controls: Iterable[str] = ("shuffled", "random", "majority"),
    starts: Iterable[str] = (),
    **others: Mapping[str, Any],
) -> Study:
    """The learned choices, their controls, networks of one function, and other variants.

    Args:
        base, seeds: of the study.
        uniform: functions, of a network each.
        controls: of the learned choices.
        starts: functions; of each a variant whose neurons have it with probability 1/2 at first.
        others: by name, what each changes.
    """
    variants: dict[str, Mapping[str, Any]] = {"learned": {}}
    variants |= {control: {"control": control} for control in controls}
    variants |= {f"uniform {name}": {"method": f"uniform:{name}"} for name in uniform}
    variants |= {f"start {name}": start_from(name) for name in starts}
    return Study(base, tuple(seeds), variants | others)


def run_studies(studies: Sequence[Study]) -> int:
    """Trains all runs; prints and draws the methods of each study that have the same settings.

    Settings of their own are in the tables of experiments.recipes.regret.
    """
    alike, others = [], []
    for each in studies:
        plain = [name for name, changes in each.variants.items() if {*changes} <= METHOD_FIELDS]
        alike.append(each.configs(*plain))
        others += [each.configs(name) for name in each.variants if name not in plain]
    return _run([(configs, True) for configs in alike] + [(configs, False) for configs in others])


METHOD_FIELDS = {"method", "control"}


def run_all(*groups: Sequence[Config]) -> int:
    """Runs groups of configs, each of one task; prints and draws a comparison for each.

    Returns:
        The exit status: 1 if a run stopped before its end, or one line said why nothing goes on.
    """
    return _run([(configs, True) for configs in groups])


def _run(groups: Sequence[tuple[Sequence[Config], bool]]) -> int:
    """Groups of configs, and whether their comparison is drawn; returns the exit status."""

    def work() -> int:
        keep_compilations()
        return min(1, sum([_run_group(configs, drawn) for configs, drawn in groups]))

    return exit_status(work)


def _run_group(configs: Sequence[Config], drawn: bool) -> int:
    """Returns how many runs stopped before their end."""
    folders, stopped = train_and_compare(configs)
    if drawn:
        comparison = folder_of(configs[0]).parent / "comparison.png"
        for path in figures.draw_comparison(folders, comparison):
            print(path)
    return stopped

"""Runs that train at once: the same results, their own folders, one compilation."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import monitoring

from experiments import run_folder
from experiments.checkpoints import Checkpoints
from experiments.config import Config
from experiments.names import run_name
from experiments.objective import CLASSIFICATION
from experiments.presets import default_config
from experiments.run_folder import RunError, read_finished
from experiments.training import compilation, networks, parallel, step
from experiments.training.draws import draw
from experiments.training.program import Program, compile_key

COMPILED = "/jax/core/compile/backend_compile_duration"


def tiny(folder: Path, task: str = "digits", preset: str = "recommended", **changes) -> Config:
    settings = {
        "hidden": (16, 12),
        "selective_epochs": 2,
        "mixed_epochs": 2,
        "logit_learning_rate": 0.05,
        "checkpoint_seconds": 0.0,
    }
    if task != "digits":
        settings["steps_per_epoch"] = 20
    config = dataclasses.replace(default_config(preset, task), **(settings | changes))
    return dataclasses.replace(config, run_dir=str(folder / run_name(config)))


def train_all(configs, at_once=8):
    return parallel.train_all(configs, at_once=at_once, show_progress=False)


def moved(configs, folder: Path) -> list[Config]:
    """The same runs in another place."""
    return [dataclasses.replace(c, run_dir=str(folder / run_name(c))) for c in configs]


def rows(config: Config) -> list[dict]:
    metrics = run_folder.read_metrics(Path(config.run_dir))
    for row in metrics:
        row.pop("seconds")
    return metrics


def assert_close(one, other, path="") -> None:
    """Equal up to float32 rounding, over a few epochs, in nested records."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, f"{path}.{number}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5), path
    else:
        assert one == other, path


@contextlib.contextmanager
def epochs_run() -> Iterator[list[tuple[str, int]]]:
    """(phase, runs at once) of every epoch trained."""
    original, seen = step.end_epoch, []

    def watch(program, *arguments):
        seen.append((program.spec.name, program.runs))
        return original(program, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "end_epoch", watch)
        yield seen


# Results


@pytest.mark.parametrize("allowed", ["10", "1000000000", None])
def test_compiled_programs_are_let_go_of_before_memory_maps_run_out(allowed, tmp_path, monkeypatch):
    """Between runs, when more than half are used; where there is no such number, never."""
    (tmp_path / "maps").write_text("a map\n" * 6)
    if allowed is not None:
        (tmp_path / "allowed").write_text(allowed + "\n")
    monkeypatch.setattr(compilation, "MAPS", tmp_path / "maps")
    monkeypatch.setattr(compilation, "ALLOWED", tmp_path / "allowed")
    times = []
    monkeypatch.setattr(jax, "clear_caches", lambda: times.append(len(list(tmp_path.glob("r*")))))
    train_all([tiny(tmp_path / f"r{seed}", seed=seed) for seed in (0, 1)], at_once=1)
    assert times == ([0, 1] if allowed == "10" else [])


@pytest.mark.skipif(not compilation.MAPS.exists(), reason="Linux counts memory maps")
def test_a_program_that_is_let_go_of_gives_its_memory_maps_back():
    def used():
        return compilation.MAPS.read_bytes().count(b"\n")

    program = jax.jit(lambda x: [x * number for number in range(20)])
    jax.clear_caches()
    begun = used()
    for size in range(1, 20):
        program(jnp.ones(size))
    grown = used() - begun
    jax.clear_caches()
    assert used() - begun < grown / 2


@pytest.mark.parametrize(
    ("task", "variants"),
    [
        (
            "digits",
            [
                {"seed": 0},
                {"seed": 1},
                {"seed": 1, "control": "random"},
                {"seed": 1, "carry_weights": False},
            ],
        ),
        ("digits", [{"method": "uniform:tanh"}, {"method": "uniform:selu", "seed": 1}]),
        ("function:product_sine", [{"seed": 0}, {"seed": 1, "control": "shuffled"}]),
    ],
)
def test_runs_at_once_end_like_each_alone(tmp_path, task, variants):
    alone = [tiny(tmp_path / "alone", task, **variant) for variant in variants]
    with epochs_run() as seen:
        folders = train_all(alone, at_once=1)
    assert {runs for _, runs in seen} == {1}
    together = moved(alone, tmp_path / "together")
    with epochs_run() as seen:
        assert len(train_all(together)) == len(variants)
    phases = ["uniform"] * 4 if "method" in variants[0] else ["selective"] * 2 + ["mixed"] * 2
    assert seen == [(phase, len(variants)) for phase in phases]
    for one, other, folder in zip(alone, together, folders, strict=True):
        assert_close(rows(one), rows(other))
        left = [{path.name for path in Path(c.run_dir).iterdir()} for c in (one, other)]
        assert left[0] == left[1]
        summaries = [read_finished(Path(c.run_dir)).summary for c in (one, other)]
        for summary in summaries:
            summary.pop("seconds")
            summary.pop("files")  # the rows have their seconds, the config its folder
            summary["environment"].pop("date")  # midnight may pass between the two
        if task == "digits":
            assert_close(*(summary.pop("confusion") for summary in summaries))
        assert_close(*summaries)
        if (folder / "choices.json").exists():
            assert (folder / "choices.json").read_text() == (
                Path(other.run_dir) / "choices.json"
            ).read_text()


def test_draws_of_several_runs_are_those_of_each(tmp_path):
    config = tiny(tmp_path)
    for steps, batch in ((0, 128), (20, 64)):
        chosen = dataclasses.replace(config, steps_per_epoch=steps, batch_size=batch)
        one = Program(None, chosen, 0, steps or 4, CLASSIFICATION)
        several = dataclasses.replace(one, runs=3)
        seeds = [5, 0, 7]
        together = draw(several, seeds, 3, 500)
        for number, seed in enumerate(seeds):
            alone = draw(one, [seed], 3, 500)
            for leaf, own in zip(together, alone, strict=True):
                same = jnp.array_equal(
                    *(
                        jax.random.key_data(x)
                        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                        else x
                        for x in (leaf[number], own)
                    )
                )
                assert same


# Which runs, and from where


def test_only_runs_of_one_program_train_together(tmp_path):
    configs = [
        tiny(tmp_path, seed=0),
        tiny(tmp_path, method="uniform:relu"),
        tiny(tmp_path, seed=1, control="random"),
        tiny(tmp_path, learning_rate=0.5),
        tiny(tmp_path, method="uniform:elu", seed=3),
        tiny(tmp_path, seed=2, carry_weights=False),
        dataclasses.replace(tiny(tmp_path), data_dir="elsewhere"),
    ]
    assert parallel.group_by_program(configs, 8) == [[0, 2, 5], [1, 4], [3], [6]]
    assert parallel.group_by_program(configs, 2) == [[0, 2], [5], [1, 4], [3], [6]]
    assert parallel.group_by_program([tiny(tmp_path, seed=seed) for seed in range(5)], 4) == [
        [0, 1, 2],
        [3, 4],
    ]
    assert parallel.group_by_program(configs, 1) == [[0], [2], [5], [1], [4], [3], [6]]


def test_runs_of_other_data_do_not_train_together(tmp_path):
    base = tiny(tmp_path, "function:wall")
    configs = [base, tiny(tmp_path, "function:kinks"), dataclasses.replace(base, points=50)]
    assert parallel.group_by_program(configs, 8) == [[0], [1], [2]]
    assert len({compile_key(config) for config in configs}) == 1


def test_functions_of_as_many_variables_share_their_programs(tmp_path):
    counts = []
    for task in ("function:wall", "function:kinks", "function:ratio"):
        train_all([tiny(tmp_path / task[9:], task, hidden=(13, 5))])
        counts.append([f._cache_size() for f in (step.run_steps, step.end_epoch)])
    assert counts[0] == counts[1]
    assert counts[2][0] == counts[1][0] + 2  # of four variables: both phases again


def test_equations_are_programs_of_their_own():
    keys = [compile_key(default_config(task=f"pde:{name}")) for name in ("burgers", "helmholtz")]
    assert keys[0] != keys[1]


def test_complete_runs_are_left_as_they_are(tmp_path):
    configs = [tiny(tmp_path, seed=seed) for seed in range(3)]
    train_all(configs[1:2])
    before = (Path(configs[1].run_dir) / "metrics.jsonl").stat().st_mtime_ns
    with epochs_run() as seen:
        folders = train_all(configs)
    assert {runs for _, runs in seen} == {2}
    assert folders == [Path(config.run_dir) for config in configs]
    assert (Path(configs[1].run_dir) / "metrics.jsonl").stat().st_mtime_ns == before
    with epochs_run() as seen:
        assert train_all(configs) == folders
    assert seen == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[Config]:
    """Two runs at once that were never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    configs = [tiny(folder, seed=0), tiny(folder, seed=1, control="shuffled")]
    train_all(configs)
    return configs


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_killed_between_the_checkpoints_of_a_group(whole, tmp_path, monkeypatch, stop_after):
    """The first run has its checkpoint of that epoch, the second has not: both repeat it."""
    configs = moved(whole, tmp_path)
    save = Checkpoints.save

    def interrupt(self, moment, *arguments):
        if moment.epochs == stop_after and "seed1" in str(self.place(moment)):
            raise KeyboardInterrupt
        save(self, moment, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", interrupt)
        train_all(configs)
    with epochs_run() as seen:
        train_all(configs)
    if stop_after == 1:
        # The second run has nothing yet: the first goes on with what it has.
        assert [runs for _, runs in seen] == [1] * 3 + [1] * 4
        return
    assert [runs for _, runs in seen] == [2] * (5 - stop_after)
    for one, other in zip(whole, configs, strict=True):
        assert rows(one) == rows(other)
        first, second = (read_finished(Path(config.run_dir)).summary for config in (one, other))
        assert first["phases"] == second["phases"]


def test_a_damaged_checkpoint_of_one_run_takes_the_group_back(whole, tmp_path, monkeypatch, capsys):
    configs = moved(whole, tmp_path)
    append = run_folder.Rows.append

    def interrupt(folder, row):
        append(folder, row)
        if row["epoch"] == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_folder.Rows, "append", interrupt)
        train_all(configs)
    for path in (Path(configs[1].run_dir) / "checkpoints" / "3" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with epochs_run() as seen:
        train_all(configs)
    assert "checkpoint of epoch 3 is damaged" in capsys.readouterr().out
    assert seen == [("mixed", 2)] * 2
    for one, other in zip(whole, configs, strict=True):
        assert rows(one) == rows(other)


# One run of a group fails


def test_a_run_whose_loss_is_not_finite_stops_alone(whole, tmp_path, monkeypatch):
    """Seed 7 starts from weights that are not finite; its neighbours do not notice."""
    configs = moved(whole, tmp_path)
    configs.insert(1, tiny(tmp_path, seed=7))
    # No checkpoint within a phase, so that the next epoch is under way when the loss is read.
    configs = [dataclasses.replace(config, checkpoint_seconds=1e9) for config in configs]
    build = networks.build_model

    def poisoned(config, task, phase_index=0):
        model = build(config, task, phase_index)
        if config.seed == 7:
            model.layers[0].kernel[...] *= jnp.nan
        return model

    monkeypatch.setattr(networks, "build_model", poisoned)
    with epochs_run() as seen:
        first, failed, last = train_all(configs)
    assert seen == [("selective", 3)] * 2 + [("mixed", 2)] * 2
    assert isinstance(failed, RunError)
    assert "the loss is nan in step 1 of 11 of epoch 1 (selective phase)" in str(failed)
    assert not (Path(configs[1].run_dir) / "summary.json").exists()
    assert rows(configs[1]) == []
    assert [first, last] == [Path(configs[0].run_dir), Path(configs[2].run_dir)]
    for one, other in zip(whole, (configs[0], configs[2]), strict=True):
        assert_close(rows(one), rows(other))
    # Again: the others are complete, and the failed one fails alone.
    with epochs_run() as seen:
        assert [isinstance(ended, RunError) for ended in train_all(configs)] == [False, True, False]
    assert seen == [("selective", 1), ("selective", 1)]


# Compilation


@contextlib.contextmanager
def compilations() -> Iterator[list[int]]:
    """[number of compilations so far]; whether the persistent cache answers is no matter."""
    count = [0]

    def listen(name: str, seconds: float, **_) -> None:
        count[0] += name == COMPILED

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(("task", "at_once"), [("digits", 1), ("function:kinks", 2)])
def test_a_phase_compiles_once_and_other_seeds_and_controls_nothing(
    tmp_path, monkeypatch, task, at_once
):
    counts: dict[str, list[int]] = {"selective": [], "mixed": []}
    append = run_folder.Rows.append
    with compilations() as count:

        def watch(folder, row):
            counts[row["phase"]].append(count[0])
            append(folder, row)

        monkeypatch.setattr(run_folder.Rows, "append", watch)
        # A width that no other test has, so that nothing is compiled yet.
        size = {"selective_epochs": 3, "mixed_epochs": 3, "hidden": (11, 7)}
        first = [tiny(tmp_path, task, seed=seed, **size) for seed in range(at_once)]
        train_all(first, at_once)
        compiled = count[0]
        second = [
            tiny(tmp_path, task, seed=5, control=control, carry_weights=carried, **size)
            for control in ("learned", "shuffled", "random", "majority")
            for carried in (True, False)
        ]
        train_all(second, at_once)
    assert counts["selective"][0] > 0
    assert counts["selective"][0] == counts["selective"][3 * at_once - 1]
    assert counts["mixed"][0] == counts["mixed"][3 * at_once - 1] > counts["selective"][0]
    assert count[0] == compiled


def test_choices_as_data_train_like_the_static_table(tmp_path, monkeypatch):
    """Phase 2 to the bit as with the library's MixedActivation in the compiled program."""
    config = tiny(tmp_path, mixed_epochs=3)
    train_all([config])
    monkeypatch.setattr("experiments.training.state.choices_as_data", lambda model: model)
    static = dataclasses.replace(config, run_dir=str(tmp_path / "static"))
    original, models = step.end_epoch, []

    def watch(program, state, non_trainable, *arguments):
        models.append(program.model(state.params, non_trainable))
        return original(program, state, non_trainable, *arguments)

    monkeypatch.setattr(step, "end_epoch", watch)
    train_all([static])
    assert all(isinstance(layer, networks.MixedActivation) for layer in models[-1].activations)
    assert rows(config) == rows(static)
    for name in ("choices.json", "summary.json"):
        one, other = (json.loads((Path(c.run_dir) / name).read_text()) for c in (config, static))
        if name == "summary.json":
            for summary in (one, other):
                summary.pop("seconds")
                summary.pop("files")
                summary.pop("sha256")
                summary["environment"].pop("date")
        assert one == other

"""The recipes: what they train, and the tables of what one run costs."""

import dataclasses
import json

import pytest

from experiments import recipes, statistics
from experiments.names import refuse_without_effect
from experiments.presets import default_config
from experiments.recipes import regret
from experiments.run_folder import folder_of, read_finished


def tiny_study(task: str) -> recipes.Study:
    small = {"hidden": (6,), "selective_epochs": 1, "mixed_epochs": 1}
    small |= {"steps_per_epoch": 3} if "function" in task else {}
    base = dataclasses.replace(default_config(task=task), **small)
    return recipes.study(base, range(3), controls=["shuffled"], uniform=["relu", "tanh"])


@pytest.mark.parametrize("name", regret.TASKS)
def test_every_run_of_a_recipe_is_one_that_its_command_would_train(name):
    for study in regret.TASKS[name]("DATA"):
        assert next(iter(study.variants)) == "learned"
        assert len(study.seeds) >= 3
        assert {folder_of(config) for config in study.configs("learned")} == {
            folder_of(dataclasses.replace(study.base, seed=seed)) for seed in study.seeds
        }
        for variant in study.variants:
            refuse_without_effect(study.configs(variant))
        folders = [folder_of(config) for config in study.configs()]
        assert len(set(folders)) == len(folders)


def test_the_noise_of_phase_1_without_learning_ends_in_the_default():
    study = regret.TASKS["functions"](None)[0]
    (config, *_) = study.configs("noise")
    assert (config.logit_learning_rate, config.start_function) == (0, "gauss")
    assert 1 / 8 < config.start_probability < 0.15


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The tables of two small tasks, as printed and as written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("regret"))
        tasks = {"digits": ["digits"], "functions": ["function:kinks", "function:wall"]}
        for name, parts in tasks.items():
            studies = [tiny_study(part) for part in parts]
            patch.setitem(regret.TASKS, name, lambda data_dir, studies=studies: studies)
        printed = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(words)))
        assert regret.main(["digits", "functions", "--write", "regret.json"]) == 0
        finished = {
            name: [
                {
                    variant: [read_finished(folder_of(c)) for c in study.configs(variant)]
                    for variant in study.variants
                }
                for study in regret.TASKS[name](None)
            ]
            for name in tasks
        }
        content = json.loads((regret.Path("regret.json")).read_text())
        return printed[-1], content, finished


def test_the_best_uniform_network_is_picked_by_validation(written):
    _, content, finished = written
    (study,) = finished["digits"]
    for number, method in enumerate(content["tasks"]["digits"]["picked"]):
        losses = {
            name: study[f"uniform {name}"][number].summary["phases"][-1]["validation_score"]
            for name in ("relu", "tanh")
        }
        assert losses[method.removeprefix("uniform:")] == max(losses.values())


def test_differences_are_paired_and_ratios_where_errors_are_compared_by_them(written):
    _, content, finished = written
    (study,) = finished["digits"]
    scores = {n: [100 * r.summary["phases"][-1]["test_score"] for r in study[n]] for n in study}
    less = [a - b for a, b in zip(scores["uniform tanh"], scores["learned"], strict=True)]
    found = content["tasks"]["digits"]["beside"]["uniform tanh"]
    assert found["difference"] == pytest.approx(statistics.interval(less))
    assert found["worst"] == pytest.approx(max(less))  # accuracy: the other's advantage
    errors = {
        name: [
            r.summary["phases"][-1]["test_normalized_error"]
            for s in finished["functions"]
            for r in s[name]
        ]
        for name in ("learned", "shuffled")
    }
    ratios = [a / b for a, b in zip(errors["shuffled"], errors["learned"], strict=True)]
    found = content["tasks"]["functions"]["beside"]["shuffled"]
    assert found["difference"] == pytest.approx(statistics.geometric_interval(ratios))
    assert found["worst"] == pytest.approx(1 / min(ratios))


def test_both_tables_name_every_task_and_variant(written):
    printed, content, _ = written
    costs, controls = printed.strip().split("\n\n")
    assert "digits (3 seeds): test accuracy" in costs
    assert costs.count(" x ") == 2
    assert [line.split("  ")[0] for line in controls.splitlines()[2:]] == [
        *("shuffled", "uniform relu", "uniform tanh", "best uniform"),
    ]
    assert content["environment"]["device"]


def test_an_unknown_task_is_one_line(capsys):
    with pytest.raises(SystemExit):
        regret.main(["mnisty"])
    assert "mnisty: expected one of digits, functions" in capsys.readouterr().err


def test_a_study_has_the_learned_choices_first_and_seeds_in_order():
    study = tiny_study("digits")
    assert list(study.variants) == ["learned", "shuffled", "uniform relu", "uniform tanh"]
    configs = study.configs("shuffled", "uniform relu")
    assert [(config.control, config.method, config.seed) for config in configs] == [
        *(("shuffled", "two_phase", seed) for seed in range(3)),
        *(("learned", "uniform:relu", seed) for seed in range(3)),
    ]


def test_the_comparison_is_drawn_of_all_methods_with_the_same_settings(tmp_path, monkeypatch):
    """And not once more, over it, of a variant with settings of its own."""
    monkeypatch.chdir(tmp_path)
    drawn = []

    def draw(folders, path):
        drawn.append((path, len(folders)))
        return []

    monkeypatch.setattr(recipes.figures, "draw_comparison", draw)
    small = tiny_study("function:kinks")
    study = small._replace(seeds=(0,), variants={**small.variants, "slow": {"learning_rate": 1e-4}})
    assert recipes.run_studies([study]) == 0
    assert all(read_finished(folder_of(config)) for config in study.configs("slow"))
    (path, methods), *others = drawn
    assert (path.name, methods, others) == ("comparison.png", 4, [])

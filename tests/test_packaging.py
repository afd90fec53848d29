"""What is published: the package page, the extras, the command, the citation, the shown Python.

That a wheel works where nothing else is installed is tried by `.ci/wheel`.
"""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import smartmixed_jax
from experiments import __main__ as command
from experiments.benchmarks import import_time

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page, snippets = load("package_page"), load("snippets")


# The package page


def test_every_link_of_the_package_page_is_absolute_and_leads_to_a_file():
    text = page.metadata(ROOT, ADDRESS)["readme"]["text"]
    targets = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", text)
    assert len(targets) > 20
    for picture, target in targets:
        assert target.startswith("https://"), target
        if target.startswith(ADDRESS):
            kind, head, path = target.removeprefix(f"{ADDRESS}/").split("/", 2)
            assert head == "HEAD"
            assert (ROOT / path).exists(), path
            assert kind == ("raw" if picture else "blob")
    assert len(text.splitlines()) == len((ROOT / "README.md").read_text().splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[`a.py`](b/a.py#x)", "[`a.py`](A/blob/HEAD/b/a.py#x)"),
        ("![f](c.png), [f](c.png)", "![f](A/raw/HEAD/c.png), [f](A/blob/HEAD/c.png)"),
        ("[p](https://b.c) [q](#there)", "[p](https://b.c) [q](#there)"),
        ("```\nf[0](x)\n```\n`g[0](x)`", "```\nf[0](x)\n```\n`g[0](x)`"),
    ],
)
def test_links_become_absolute_and_code_stays(text, expected):
    assert page.absolute(text, "A") == expected


def test_the_address_of_the_repository_stands_in_one_place():
    files = [p for p in ROOT.iterdir() if p.suffix in (".md", ".toml", ".txt", ".cff")]
    files += [*ROOT.glob("docs/*"), *ROOT.glob("smartmixed_jax/*.py"), ROOT / "Makefile"]
    found = [path.name for path in files if path.is_file() and ADDRESS in path.read_text()]
    assert found == ["pyproject.toml"]


# The extras


def test_the_extras_are_the_files_of_requirements():
    extras = page.metadata(ROOT, ADDRESS)["optional-dependencies"]
    assert {"experiments", "dev"} <= extras.keys()
    assert set(extras["experiments"]) < set(extras["dev"])
    for line in (line for lines in extras.values() for line in lines):
        assert not line.startswith("-")
        assert "#" not in line


def test_the_program_has_the_librarys_bounds_and_every_requirement_a_lower_one():
    def plain(line):
        return line.replace(" ", "").replace('"', "'")

    program = set(map(plain, page.requirements(ROOT / "requirements.txt")))
    assert set(map(plain, PROJECT["project"]["dependencies"])) <= program
    everything = page.requirements(ROOT / "requirements-dev.txt")
    assert [line for line in everything if ">=" not in line] == []


# What is in the wheel


def test_the_wheel_has_every_package_and_no_results():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    packages = [path.parent for path in ROOT.glob("*/__init__.py")]
    shipped = {path.name for path in packages} & set(wheel["packages"])
    assert shipped == {"smartmixed_jax", "experiments"} == set(wheel["packages"])
    assert "experiments/results" in wheel["exclude"]
    for name in wheel["packages"]:  # nothing that is imported is among what is left out
        for module in (ROOT / name).rglob("*.py"):
            relative = module.relative_to(ROOT).as_posix()
            assert not any(relative.startswith(left_out) for left_out in wheel["exclude"])
            assert (module.parent / "__init__.py").exists(), f"{relative}: no package"


# The command


def test_the_command_is_the_one_that_the_project_declares():
    (name, target) = next(iter(PROJECT["project"]["scripts"].items()))
    assert (name, target) == ("smartmixed", "experiments.__main__:main")
    for wanted in ("run", "grid", "evaluate", "report", "export"):
        assert wanted in command.COMMANDS


def test_every_command_that_is_listed_has_a_main():
    listed = re.findall(r"^  ([a-z]+) ", command.usage(), re.MULTILINE)
    assert {"run", "grid", "evaluate", "report", "chosen", "figures"} <= set(listed)
    for name in listed:
        assert callable(importlib.import_module(command.module_of(name)).main), name


def test_a_command_whose_module_there_is_not_is_neither_listed_nor_run(monkeypatch, capsys):
    monkeypatch.setitem(command.COMMANDS, "missing", "not there")
    assert "missing" not in command.usage()
    assert command.main(["missing"]) == 2
    assert capsys.readouterr().err.startswith("error: no command 'missing'; expected one of run, ")


def test_a_command_gets_the_arguments_behind_its_name_and_gives_its_status(monkeypatch):
    from experiments import report

    given = []
    monkeypatch.setattr(report, "main", lambda arguments: given.append(arguments) or 3)
    assert command.main(["report", "runs/a", "--table"]) == 3
    assert given == [["runs/a", "--table"]]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_it_lists_them(capsys, arguments):
    assert command.main(arguments) == 0
    assert "smartmixed COMMAND" in capsys.readouterr().out


def test_the_version_is_the_librarys_and_that_of_the_citation(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == smartmixed_jax.__version__
    assert f"\nversion: {smartmixed_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("missing", ["rich", "PIL.Image"])
def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch, capsys, missing):
    def fail(name):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(command.importlib, "import_module", fail)
    assert command.main(["run"]) == 1
    error = capsys.readouterr().err
    assert error == f"error: run needs {missing}: pip install 'smartmixed-jax[experiments]'\n"


def test_a_fault_of_the_program_itself_is_no_missing_extra(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'experiments.gone'", name="experiments.gone")

    monkeypatch.setattr(command.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError):
        command.main(["run"])


# The citation


def test_the_citation_names_the_paper():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"]
    (paper,) = citation["references"]
    assert paper["doi"].endswith("arXiv.2510.22450")
    assert paper["title"].startswith("SmartMixed: ")


def test_the_matrix_has_the_oldest_and_the_newest_of_the_supported_versions():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    rows = workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]
    assert {row["versions"] for row in rows} == {"oldest", "newest"}
    assert PROJECT["project"]["requires-python"] == f">={min(row['python'] for row in rows)}"
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            for script in re.findall(r"\.ci/\w+", step.get("run", "")):
                assert (ROOT / script).exists()


# The Python that pages show


def test_a_line_of_a_module_is_the_same_line_of_its_page(tmp_path):
    paths = {path.stem: path for path in snippets.write(tmp_path)}
    assert {"readme", "your_model", "your_data"} <= paths.keys()
    for name, path in paths.items():
        source = ROOT / ("README.md" if name == "readme" else f"docs/{name}.md")
        shown, lines = source.read_text().splitlines(), path.read_text().splitlines()
        compile(path.read_text(), str(path), "exec")
        written = [(at, line.strip()) for at, line in enumerate(lines) if line.strip()]
        added = [line for at, line in written if line not in shown[at]]
        assert name == "readme" or added == []
        assert all(line.startswith(("import jax; ", "def block_")) for line in added)


def test_the_checkers_find_a_wrong_type(tmp_path):
    """The same command as for the pages, on a module with one."""
    pytest.importorskip("mypy")
    file = tmp_path / "wrong.py"
    file.write_text("def f(x: int) -> str:\n    return x\n\n\ndef g(y):\n    return y\n")
    for words in snippets.commands([file])[:1]:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        assert "wrong.py:2" in done.stdout
        assert "wrong.py:5" in done.stdout


# Import time


def test_the_benchmark_of_import_times_compares_two_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(import_time, "MODULES", {"flax.nnx": "json", "smartmixed_jax": "csv"})
    out = tmp_path / "record.json"
    assert import_time.main(["--smoke", "--out", str(out)]) == 0
    assert "to flax.nnx" in capsys.readouterr().out
    assert '"smartmixed_jax"' in out.read_text()
    monkeypatch.setattr(import_time, "MODULES", {"flax.nnx": "no_such_module"})
    assert import_time.main(["--smoke"]) == 1
    assert "No module named 'no_such_module'" in capsys.readouterr().err


def test_importing_the_library_imports_nothing_that_flax_does_not():
    code = "import sys, flax.nnx, flax.linen; a = set(sys.modules); import smartmixed_jax; "
    code += "print(*{name.partition('.')[0] for name in set(sys.modules) - a})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    allowed = {"smartmixed_jax", "jax", "flax"} | sys.stdlib_module_names
    assert "smartmixed_jax" in done.stdout.split(), done.stderr
    assert set(done.stdout.split()) <= allowed

"""What a run needs is compared with the memory that there is, before anything is allocated."""

import dataclasses
import functools
import resource
import subprocess
import sys

import jax
import pytest

from experiments import machine
from experiments.command_line import exit_status
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.training import memory
from experiments.training.networks import apply, build_model, require_fit
from experiments.training.train import train_and_evaluate


@pytest.fixture(scope="module")
def task():
    return load_task(default_config())


def needed(monkeypatch, task, **changes) -> dict[str, int]:
    found = []
    config = dataclasses.replace(default_config(), **changes)
    monkeypatch.setattr(memory, "_require_room", lambda _, parts: found.append(dict(parts)))
    build = functools.partial(build_model, config, task)
    memory.require_memory(config, task, build, functools.partial(apply, config, task.scale))
    return found[-1]


def test_what_is_counted(monkeypatch, task):
    """64-32-16-10, its parameters five times; into and out of every layer, and a gradient."""
    parts = needed(monkeypatch, task, hidden=(32, 16), batch_size=100, steps_per_epoch=7)
    parameters = 64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10 + (32 + 16) * 6
    assert parts["weights and optimiser"] == 4 * 5 * parameters
    assert parts["a batch"] == 4 * 100 * (3 * (32 + 16 + 10) + 64)
    assert parts["an epoch's order"] == 20 * 700 + 32 * 7
    assert parts["data"] == sum(a.nbytes for split in task.splits.values() for a in split)
    fewer = needed(monkeypatch, task, hidden=(32, 16), optimizer="sgd")
    assert fewer["weights and optimiser"] == 4 * 4 * parameters


def test_of_an_image_every_place_counts(monkeypatch, task):
    parts = needed(monkeypatch, task, network="conv", batch_size=100)
    layers = 8 * 8 * 32 + 4 * 4 * 64 + 256 + 10
    assert parts["a batch"] == 4 * 100 * (3 * layers + 64)


def test_a_machine_without_room_is_named(monkeypatch, task):
    monkeypatch.setattr(memory, "memory_for_arrays", lambda: 2**20)
    with pytest.raises(
        ValueError,
        match=r"^network 256-128 with batch_size = 128 needs about .* GiB \(.*weights.*\), this "
        "machine has 0.000977 GiB$",
    ):
        require_fit(default_config(), task)
    monkeypatch.setattr(memory, "memory_for_arrays", lambda: 2**24)
    require_fit(default_config(), task)


def test_a_device_with_memory_of_its_own_counts_first(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 2**30}

        def __str__(self):
            return "cuda:0"

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    memory._require_room(default_config(), {"data": 2**30})
    with pytest.raises(
        ValueError, match=r"about 2 GiB \(data 2 GiB\), the device cuda:0 has 1 GiB"
    ):
        memory._require_room(default_config(), {"data": 2**31})


def test_the_limits_of_a_process_and_a_container_count(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP_FILES", (tmp_path / "max", tmp_path / "nothing"))
    whole = machine.host_memory()
    assert whole > 2**28
    (tmp_path / "max").write_text("max\n")
    assert machine.host_memory() == whole
    (tmp_path / "max").write_text(f"{2**27}\n")
    assert machine.host_memory() == 2**27
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**26, 2**26))
    assert machine.host_memory() == 2**26


# Limits


def limited(monkeypatch, addresses: int | None = None, container: int | None = None) -> None:
    monkeypatch.setattr(machine, "_address_limit", lambda: addresses)
    monkeypatch.setattr(machine, "_container_limit", lambda: container)


def test_without_a_limit_nothing_is_refused(monkeypatch):
    limited(monkeypatch)
    machine.require_memory_to_import()
    machine.require_memory_for_jax()
    assert machine.memory_for_arrays() == machine.host_memory()


def test_a_limit_leaves_a_run_what_jax_does_not_take(monkeypatch, task):
    jax_takes = machine._addresses_of_jax()
    assert jax_takes > 2_200_000_000  # measured
    limited(monkeypatch, addresses=jax_takes + 2**20)
    machine.require_memory_for_jax()
    assert machine.memory_for_arrays() == 2**19
    with pytest.raises(ValueError, match=r"this machine has 0\.000488 GiB"):
        require_fit(default_config(), task)
    limited(monkeypatch, container=machine.RESIDENT + 2**24)
    assert machine.memory_for_arrays() == 2**24
    require_fit(default_config(), task)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"addresses": 1_200_000_000}, r"address space .* limited to 1\.12 GiB: expected at least"),
        ({"container": 500_000_000}, r"this container is limited to 0\.466 GiB: expected at least"),
    ],
)
def test_less_than_jax_takes_is_refused_before_data_are_loaded(
    monkeypatch, tmp_path, limits, message
):
    limited(monkeypatch, **limits)
    config = dataclasses.replace(default_config(), run_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        train_and_evaluate(config, load=lambda _: pytest.fail("loaded"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("gigabytes", [0.5, 1.2])
@pytest.mark.parametrize("command", ["run", "grid", "evaluate"])
def test_little_memory_is_one_line_and_no_folder(tmp_path, command, gigabytes):
    folder = tmp_path / "run"
    where = [str(folder)] if command == "evaluate" else ["--run-dir", str(folder)]
    limit = f'ulimit -v {int(gigabytes * 1e6)}; exec "$@"'
    words = [sys.executable, "-m", f"experiments.{command}", *where]
    process = subprocess.run(["sh", "-c", limit, "sh", *words], capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("error: the address space of a process (ulimit -v) is limited")
    assert process.stderr.count("\n") == 1
    assert not folder.exists()


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
)
def test_memory_that_ends_later_is_one_line(capsys, error):
    def work():
        raise error

    assert exit_status(work) == 1
    assert capsys.readouterr().err == "error: not enough memory; the same command again resumes\n"


def test_other_errors_keep_their_traceback():
    def work():
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        exit_status(work)

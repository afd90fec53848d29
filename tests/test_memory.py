"""What a run needs is compared with the memory that there is, before anything is allocated."""

import dataclasses
import functools
import resource

import jax
import pytest

from experiments import machine
from experiments.data.tasks import load_task
from experiments.presets import default_config
from experiments.training import memory
from experiments.training.networks import apply, build_model, require_fit


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
    monkeypatch.setattr(memory, "host_memory", lambda: 2**20)
    with pytest.raises(
        ValueError,
        match=r"^network 256-128 with batch_size = 128 needs about .* GiB \(.*weights.*\), this "
        "machine has 0.000977 GiB$",
    ):
        require_fit(default_config(), task)
    monkeypatch.setattr(memory, "host_memory", lambda: 2**24)
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

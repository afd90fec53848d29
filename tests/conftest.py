"""Settings of the tests: the CPU, strict JAX for the library, NNX in either mode."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # no test writes to the user's cache
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import pytest
from flax import nnx

from experiments.training.compilation import release_compilations


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "optimized: compiled as for a user, because it compares last places or computes for long",
    )
    config.addinivalue_line(
        "markers", "graph_mode(reason): needs what NNX's tree mode does not have; skipped there"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if nnx.set_graph_mode.current_value():
        return
    for item in items:
        if marker := item.get_closest_marker("graph_mode"):
            item.add_marker(pytest.mark.skip(reason=f"tree mode: {marker.args[0]}"))


@pytest.fixture(autouse=True, scope="module")
def released():
    """A worker runs thousands of tests."""
    yield
    release_compilations()


@pytest.fixture
def strict():
    """Implicit broadcasts between ranks and implicit conversions between dtypes raise."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield

"""Settings of the tests: the CPU, strict JAX for the library, NNX in either mode."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    # One per worker: an entry that another process is writing would be read in part.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder, worker)
else:  # no test writes to the user's cache
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import pytest
from flax import nnx


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "graph_mode(reason): needs what NNX's tree mode does not have; skipped there"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if nnx.set_graph_mode.current_value():
        return
    for item in items:
        if marker := item.get_closest_marker("graph_mode"):
            item.add_marker(pytest.mark.skip(reason=f"tree mode: {marker.args[0]}"))


@pytest.fixture
def strict():
    """Implicit broadcasts between ranks and implicit conversions between dtypes raise."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield

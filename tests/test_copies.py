"""Copies of pools, tables and fixed models are equal, evaluated alike and compiled once."""

import copy
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smartmixed_jax import (
    EXTENDED_POOL,
    PAPER_POOL,
    REGRESSION_POOL,
    SMOOTH_POOL,
    ActivationPool,
    FunctionTable,
    MixedActivation,
    covered,
    leaky_relu,
)
from smartmixed_jax.pools import Affine

cloudpickle = pytest.importorskip("cloudpickle")

CUSTOM = ActivationPool({"relu": jax.nn.relu, "leaky": leaky_relu(0.2), "cos": jnp.cos})
POOLS = {
    "paper": PAPER_POOL,
    "regression": REGRESSION_POOL,
    "extended": EXTENDED_POOL,
    "smooth": SMOOTH_POOL,
    "general": PAPER_POOL.with_form("general"),
    "matched": PAPER_POOL.variance_matched(),
    "custom": CUSTOM,
}
COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
}


@pytest.mark.parametrize("twin", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_a_copy_of_a_pool_is_equal_and_covered_alike(pool, twin):
    again = twin(pool)
    assert again == pool
    assert hash(again) == hash(pool)
    assert (again.form, covered(again)) == (pool.form, covered(pool))
    table = FunctionTable(pool, [0, len(pool) - 1])
    assert twin(table) == table
    assert hash(twin(table)) == hash(table)


def test_a_deep_copy_of_a_pool_is_the_pool():
    assert copy.deepcopy({"pool": CUSTOM})["pool"] is CUSTOM


@pytest.mark.optimized
@pytest.mark.parametrize("twin", [COPIES["deepcopy"], COPIES["cloudpickle"]])
def test_a_copy_of_a_fixed_model_has_its_bits_and_its_compilation(twin):
    rngs = nnx.Rngs(0)
    table = FunctionTable(PAPER_POOL, [i % 6 for i in range(16)])
    model = nnx.Sequential(nnx.Linear(8, 16, rngs=rngs), MixedActivation(table))
    call = jax.jit(lambda graphdef, state, x: nnx.merge(graphdef, state)(x), static_argnums=0)
    x = jax.random.normal(jax.random.key(0), (4, 8))
    found, expected = (call(*nnx.split(m), x) for m in (twin(model), model))
    np.testing.assert_array_equal(found, expected)
    assert call._cache_size() == 1


def test_a_pickle_is_read_by_another_process():
    table = FunctionTable(PAPER_POOL.variance_matched(), [0, 5])
    program = (
        "import pickle, sys; from smartmixed_jax import PAPER_POOL, FunctionTable, covered;"
        "table = pickle.load(sys.stdin.buffer);"
        "assert table == FunctionTable(PAPER_POOL.variance_matched(), [0, 5]);"
        "assert len(covered(table.pool)) == 6"
    )
    subprocess.run([sys.executable, "-c", program], input=pickle.dumps(table), check=True)


def test_a_function_without_an_import_path_is_an_error_of_pickle_alone():
    pool = ActivationPool({"relu": jax.nn.relu, "mine": lambda x: jnp.sin(3 * x)})
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(pool)
    again = COPIES["cloudpickle"](pool)
    x = jnp.linspace(-2, 2, 9)
    assert again.functions[0] is jax.nn.relu
    np.testing.assert_array_equal(again.functions[1](x), pool.functions[1](x))
    wrapped = Affine(lambda x: x * x, 0.5, 2.0)
    np.testing.assert_array_equal(COPIES["cloudpickle"](wrapped)(x), wrapped(x))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(wrapped)

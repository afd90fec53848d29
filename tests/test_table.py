"""FunctionTable: identity, counts, JSON, static argument."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smartmixed_jax import PAPER_POOL, REGRESSION_POOL, FunctionTable, apply_choices

pytestmark = pytest.mark.usefixtures("strict")


def test_table_names_and_counts_its_choices():
    table = FunctionTable(PAPER_POOL, [2, 0, 2, 5])
    assert table.choices == (2, 0, 2, 5)
    assert table.names == ("tanh", "relu", "tanh", "selu")
    assert table.counts() == {
        "relu": 1, "sigmoid": 0, "tanh": 2, "leaky_relu": 0, "elu": 0, "selu": 1,
    }  # fmt: skip
    assert list(table.counts()) == list(PAPER_POOL.names)
    assert len(table) == 4
    assert repr(table) == "FunctionTable(4 neurons: relu 1, tanh 2, selu 1)"


def test_tables_are_equal_exactly_when_pool_and_choices_are():
    table = FunctionTable(PAPER_POOL, [2, 0, 1])
    for choices in ((2, 0, 1), np.array([2, 0, 1], np.uint8), jnp.array([2, 0, 1])):
        assert FunctionTable(PAPER_POOL, choices) == table
        assert hash(FunctionTable(PAPER_POOL, choices)) == hash(table)
    others = [
        FunctionTable(PAPER_POOL, [2, 0, 0]),
        FunctionTable(PAPER_POOL, [2, 0]),
        FunctionTable(REGRESSION_POOL, [2, 0, 1]),
        FunctionTable(PAPER_POOL.variance_matched(), [2, 0, 1]),
        (2, 0, 1),
    ]
    assert all(table != other for other in others)


def test_an_equal_table_is_a_static_argument_that_does_not_retrace():
    traces = []

    def apply(x, table):
        traces.append(table)
        return apply_choices(x, table.choices, table.pool)

    apply = jax.jit(apply, static_argnums=1)
    x = jnp.array([[-1.0, 0.0]])
    np.testing.assert_allclose(apply(x, FunctionTable(PAPER_POOL, [0, 1])), [[0.0, 0.5]])
    np.testing.assert_allclose(apply(x, FunctionTable(PAPER_POOL, [0, 1])), [[0.0, 0.5]])
    assert len(traces) == 1
    np.testing.assert_allclose(apply(x, FunctionTable(PAPER_POOL, [3, 1])), [[-0.01, 0.5]])
    assert len(traces) == 2


@pytest.mark.parametrize("choices", [[2, 0, 5, 5], [0], []])
def test_json_round_trip_is_exact(choices):
    table = FunctionTable(PAPER_POOL, choices)
    text = table.to_json()
    assert json.loads(text) == {"pool": list(PAPER_POOL.names), "choices": choices}
    assert FunctionTable.from_json(text, PAPER_POOL) == table


def test_json_of_another_pool_raises_naming_both():
    text = FunctionTable(PAPER_POOL, [0]).to_json()
    with pytest.raises(ValueError, match=r"written for the pool \['relu', 'sig.*got \['relu', 'ta"):
        FunctionTable.from_json(text, REGRESSION_POOL)


PAPER_NAMES = json.dumps(list(PAPER_POOL.names))


@pytest.mark.parametrize(
    "text",
    [
        "",
        FunctionTable(PAPER_POOL, [0, 1]).to_json()[:-4],
        "[1, 2]",
        '"relu"',
        "null",
        '{"choices": [0]}',
        '{"pool": 3, "choices": [0]}',
        f'{{"pool": {PAPER_NAMES}}}',
        f'{{"pool": {PAPER_NAMES}, "choices": null}}',
        f'{{"pool": {PAPER_NAMES}, "choices": 3}}',
        f'{{"pool": {PAPER_NAMES}, "choices": [[0], [1, 2]]}}',
        f'{{"pool": {PAPER_NAMES}, "choices": [0.5]}}',
        f'{{"pool": {PAPER_NAMES}, "choices": [true]}}',
    ],
)
def test_damaged_json_raises_a_value_error_that_says_so(text):
    with pytest.raises(ValueError, match=r"FunctionTable\.from_json: no function table: "):
        FunctionTable.from_json(text, PAPER_POOL)


def test_json_with_a_choice_out_of_range_raises_naming_it():
    text = f'{{"pool": {PAPER_NAMES}, "choices": [0, 6]}}'
    with pytest.raises(ValueError, match="choice 6 of neuron 1 is outside"):
        FunctionTable.from_json(text, PAPER_POOL)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ([0, 6], ValueError, r"choice 6 of neuron 1 is outside \[0, 6\)"),
        ([-1], ValueError, "choice -1 of neuron 0 is outside"),
        ([0.0], TypeError, r"choices must be integers \[N\], got \[0\.0\]"),
        ([[0]], TypeError, r"choices must be integers \[N\], got \[\[0\]\]"),
    ],
)
def test_bad_choices_raise_naming_them(choices, error, message):
    with pytest.raises(error, match=f"FunctionTable: {message}"):
        FunctionTable(PAPER_POOL, choices)


def test_traced_choices_raise():
    with pytest.raises(TypeError, match="FunctionTable: choices must be static"):
        jax.jit(lambda choices: len(FunctionTable(PAPER_POOL, choices)))(jnp.zeros(2, jnp.int32))

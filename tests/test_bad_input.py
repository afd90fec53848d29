"""Bad input: every argument of every public function, with values that it must refuse.

An error is a TypeError or ValueError of one line that begins with the place and names the argument
and the value. A row of the table is (place, argument, call with the value, values); an argument
"=text" stands for both: the message has this text.
"""

# ruff: noqa: E731  a row is one call

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

import smartmixed_jax
from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    ActivationPool,
    Coefficients,
    FunctionTable,
    MixedActivation,
    Selection,
    SelectiveActivation,
    apply_choices,
    coefficients,
    covered,
    estimators,
    fix_choices,
    label_parameters,
    leaky_relu,
    linen,
    mix,
    release_choices,
    select_activations,
    summarize,
    switch_report,
)
from smartmixed_jax._checks import shown
from smartmixed_jax.conversion import ActivationByWidth
from smartmixed_jax.layer import one_random_entry
from smartmixed_jax.models import uniform
from smartmixed_jax.summary import selection_logits, statistics, summarize_logits

KEY, NAN, INF = jax.random.key(0), float("nan"), float("inf")
X, LOGITS = jnp.ones((2, 3)), jnp.zeros((3, 6))
NAN_LOGITS = LOGITS.at[1, 2].set(NAN)
HARD = estimators.deterministic(LOGITS)
TABLE = FunctionTable(PAPER_POOL, [0, 1, 2])
THING = object()

# Values that are no …
INT = (None, "3", True, 2.0, 2j, [3], {"a": 1}, {3}, THING, int, NAN, np.array([3]), jnp.array(2.0))
NUMBER = ("1", True, 1j, [1.0], [[1.0], [1.0, 2.0]], {}, {1.0}, THING, float, jnp.ones(2), KEY)
NUMBER = (*NUMBER, np.array("1"), jnp.array(True))
TEMPERATURE = (*NUMBER, 0, 0.0, -1.0, NAN, INF, -INF, jnp.array(NAN), np.float32(-1))
NOISE = (*NUMBER, -0.5, NAN, INF, jnp.array(-1.0))
PROBABILITY = (None, "0.9", True, 0.9j, [0.9], THING, jnp.ones(2), 0.0, 1 / 6, 1.0, 2, NAN, INF)
FUNCTION = ("relu", 3, 1.5, [jax.nn.relu], {"relu": jax.nn.relu}, THING, True, jnp.ones(2))
POOL = (None, "relu", 3, {"relu": jax.nn.relu}, [jax.nn.relu], ("relu",), {"relu"}, ActivationPool)
POOL = (*POOL, jax.nn.relu, THING, jnp.ones(2))
FLOATS = (None, "x", 3, 1.0, [[1.0, 2.0, 3.0]], {}, THING, jnp.ones, KEY)
FLOATS = (*FLOATS, jnp.ones((2, 3), int), jnp.ones((2, 3), complex), np.ones((2, 3), bool))
BOOL = ("yes", 1, 0.0, [], THING, bool, jnp.ones(2, bool), np.array(["a"]))
DTYPE = ("float33", 3, int, complex, "int32", bool, jnp.uint8, [], THING)
RNGS = (0, "0", KEY, jax.random.PRNGKey(0), nnx.Rngs, {"params": KEY}, [nnx.Rngs(0)], THING)
AXIS = (*INT, 2, -3, 99)
MODEL = (None, "model", 3, MLP, [THING], {"a": 1}, THING, nn.Dense(3), jax.nn.relu)
TABLES = (None, [0, 1, 2], {}, PAPER_POOL, FunctionTable, TABLE.to_json(), THING, jnp.zeros(3, int))
CHOICES = (None, "012", 3, 1.5, [0.0, 1.0, 2.0], [0, 1, 2.0], [True, False, True], [0, True, 2])
CHOICES = (*CHOICES, [[0, 1, 2]], [[0], [1, 2]], {0, 1, 2}, {0: 1}, THING, [0, 1, "2"])
CHOICES = (
    *CHOICES,
    [0, 1, None],
    jnp.zeros(3),
    np.zeros(3, bool),
    [0, 6, 1],
    [0, 1, -1],
    [0, 1, 2**70],
)
KEYS = (0, "0", 1.5, [0, 1], {}, THING, jnp.ones(2), jax.random.split(KEY), jnp.zeros((), "uint32"))
KEYS = (*KEYS, nnx.Rngs(0))
GROUPS = ("all", 1.0, True, {"a": 0}, {0, 1, 2}, THING, [0.0, 0.0, 1.0], [True, 0, 1])
GROUPS = (*GROUPS, [0, 1], [[0, 1, 2]], 0, -1, 2, 4, [0, 0, 2], [-1, 0, 1], jnp.zeros(3))
START = ("relu", 0.9, [], ("relu",), (0, 0.9), ("relu", 0.9, 1), {"relu": 0.9}, THING)
DRAWS = ("examples", 0, -1, True, 1.5, [2], THING, jnp.ones(2, int), INF)


def raises(x: Any) -> Any:
    raise ZeroDivisionError("one\ntwo")


# Functions that a pool cannot evaluate element by element.
WILD = {
    "sum": jnp.sum,
    "softmax": jax.nn.softmax,
    "transposing": lambda x: x.T,
    "reversing": lambda x: x[::-1],
    "halving": lambda x: x[..., :1],
    "stacking": lambda x: jnp.stack([x, x]),
    "complex": lambda x: x * 1j,
    "int": lambda x: jnp.int32(x),
    "bool": lambda x: x > 0,
    "none": lambda x: None,
    "str": lambda x: "relu",
    "pair": lambda x: (x, x),
    "list": lambda x: [x],
    "scalar": lambda x: 0.0,
}


class Model(nnx.Module):
    """Something to convert."""

    def __init__(self):
        self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
        self.act = nnx.relu

    def __call__(self, x: Any) -> Any:
        return self.act(self.linear(x))


@dataclasses.dataclass(frozen=True)
class Claims:
    """A function with an attribute `coefficients`."""

    coefficients: Any

    def __call__(self, x: Any) -> Any:
        return x


MODEL_ = Model()
NET = MLP(3, (3,), 2, rngs=nnx.Rngs(0))
FIXED = fix_choices(NET)
ACT = SelectiveActivation(3, rngs=nnx.Rngs(0))
LINEN = linen.SelectiveActivation()
VARIABLES = LINEN.init(KEY, X)
_, CHOSEN = linen.fix_choices(LINEN, VARIABLES)


def traced(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: jax.jit(call)(value)


def make(name: str) -> Callable[[Any], Any]:
    return lambda value: SelectiveActivation(**{"features": 3, "rngs": nnx.Rngs(0), name: value})


def linen_module(name: str, value: Any) -> Any:
    return linen.SelectiveActivation(**{name: value})


def linen_call(name: str) -> Callable[[Any], Any]:
    return lambda value: linen_module(name, value).init(KEY, X)


def call(**options: Any) -> Any:
    return ACT(X, **{"rngs": nnx.Rngs(0), **options})


def converted(*inputs: Any, **options: Any) -> Any:
    return select_activations(MODEL_, *inputs or (X,), **{"rngs": nnx.Rngs(0), **options})


def with_nan(act: Any = None) -> Any:
    act = act or SelectiveActivation(3, rngs=nnx.Rngs(0))
    act.selection_logits[...] = NAN_LOGITS
    return act


def text(**record: Any) -> str:
    return json.dumps({"pool": list(PAPER_POOL.names), "choices": [0], **record})


NAMES = json.dumps(list(PAPER_POOL.names))
JSON = (
    *(None, 3, 1.5, b"{}", [], {}, THING, text().encode(), "", "relu", "null", "3", "[1, 2]"),
    *(text()[:-4], text() + "}", "[" * 100_000, '{"a":' * 100_000, f'{{"pool": {NAMES}}}'),
    *(f'{{"pool": {NAMES}, "choices": [0], "choices": [1]}}', '{"choices": [0]}'),
    *(text(choices=bad) for bad in (None, 3, "0", {}, [NAN], [0.5], [True], [[0]], ["0"], [None])),
    *(text(pool=bad) for bad in (None, 3, dict.fromkeys(PAPER_POOL.names))),
)

Row = tuple[str, str, Callable[[Any], Any], Any]


def rows() -> Iterator[Row]:
    yield "mix", "x", lambda v: mix(v, HARD, PAPER_POOL), FLOATS
    selections = (None, "s", 3, LOGITS, (LOGITS, None), [LOGITS, None], {}, Selection, THING)
    yield "mix", "selection", lambda v: mix(X, v, PAPER_POOL), selections
    yield "mix", "weights", lambda v: mix(X, Selection(v, None), PAPER_POOL), FLOATS
    shapes = (jnp.zeros(6), jnp.zeros((3, 5)), jnp.zeros((4, 6)), jnp.zeros((1, 3, 6)))
    yield "mix", "weights", lambda v: mix(X, Selection(v, None), PAPER_POOL), shapes
    yield "mix", "=NaN", lambda v: mix(X, Selection(v, None), PAPER_POOL), (NAN_LOGITS,)
    bad = ("012", 3, [0, 1, 2], {}, jnp.zeros(3), jnp.zeros(3, bool), jnp.zeros(2, int), THING)
    yield "mix", "choices", lambda v: mix(X, Selection(LOGITS, v), PAPER_POOL), bad
    yield "mix", "pool", lambda v: mix(X, HARD, v), POOL
    yield "mix", "axis", lambda v: mix(X, HARD, PAPER_POOL, axis=v), AXIS
    yield "apply_choices", "x", lambda v: apply_choices(v, (0, 1, 2), PAPER_POOL), FLOATS
    yield "apply_choices", "choice", lambda v: apply_choices(X, v, PAPER_POOL), CHOICES
    yield "apply_choices", "choices", lambda v: apply_choices(X, v, PAPER_POOL), ([0, 1], [0] * 4)
    bad = (jnp.zeros(3), jnp.zeros(3, bool), jnp.zeros((3, 1), int), jnp.zeros(2, int))
    yield "apply_choices", "choices", traced(lambda v: apply_choices(X, v, PAPER_POOL)), bad
    yield "apply_choices", "pool", lambda v: apply_choices(X, (0, 1, 2), v), POOL
    yield "apply_choices", "axis", lambda v: apply_choices(X, (0, 1, 2), PAPER_POOL, axis=v), AXIS
    for name in WILD:
        pools = (ActivationPool({"relu": jax.nn.relu, name: WILD[name]}),)
        yield "mix", f"={name!r}", lambda v: mix(X, Selection(jnp.zeros((3, 2)), None), v), pools
        yield "apply_choices", f"={name!r}", lambda v: apply_choices(X, (0, 1, 1), v), pools
        yield "variance_matched", f"={name!r}", ActivationPool.variance_matched, pools

    bad = (None, 3, "relu", [jax.nn.relu], {"a": 3}, {"a": None}, {3: jnp.sin}, {"": jnp.sin})
    bad = (*bad, {"a,b": jnp.sin}, {None: jnp.sin}, {"leaky": leaky_relu}, {"a": "sin"})
    bad = (*bad, [("a",)], THING, jnp.ones(2), jnp.sin)
    yield "ActivationPool", "", ActivationPool, (*bad, [["a", 3]], {"a": [jnp.sin]}, PAPER_POOL)
    bad = [("a", jnp.sin), ("b", jnp.cos), ("a", jnp.cos)]
    yield "ActivationPool", "=duplicate names ['a']", ActivationPool, (bad, bad[::2])
    yield "ActivationPool", "=empty", ActivationPool, ({}, [], ())
    unhashable = dataclasses.make_dataclass("Unhashable", [], namespace={"__call__": raises})
    yield "ActivationPool", "=hashable", ActivationPool, ({"a": unhashable()},)
    bad = (None, 3, True, "fast", "", [], ["auto"], {}, THING, jnp.ones(2), np.array(["auto"] * 2))
    yield "ActivationPool.with_form", "form", PAPER_POOL.with_form, bad
    yield "ActivationPool.map", "change", PAPER_POOL.map, (None, *FUNCTION)
    yield "ActivationPool", "", lambda v: PAPER_POOL.map(lambda name, f: v), (None, 3, "relu")
    names = (None, 3, "nope", "", [], ["relu"], {"relu"}, THING, np.array(["relu", "tanh"]))
    yield "ActivationPool", "function", PAPER_POOL.index, names
    yield "ActivationPool", "function", PAPER_POOL.subset, names
    yield "ActivationPool", "duplicate", lambda v: PAPER_POOL.subset(v, v), ("relu",)
    yield "ActivationPool", "=empty", lambda v: PAPER_POOL.subset(*v), ((),)
    yield "leaky_relu", "slope", leaky_relu, (None, *NUMBER, NAN, INF)
    yield "coefficients", "function", coefficients, (None, *FUNCTION)
    claims = (3, "x", (0.0,), tuple(Coefficients()), Coefficients, THING)
    claims = (*claims, Coefficients("0"), Coefficients(p_x=None), Coefficients(slope=3))
    yield "coefficients", "coefficients", lambda v: coefficients(Claims(v)), claims
    yield "covered", "pool", covered, POOL

    yield "FunctionTable", "pool", lambda v: FunctionTable(v, [0]), POOL
    yield "FunctionTable", "choice", lambda v: FunctionTable(PAPER_POOL, v), CHOICES
    bad = (jnp.zeros(3, int),)
    yield "FunctionTable", "=traced", traced(lambda v: FunctionTable(PAPER_POOL, v).counts()), bad
    yield "FunctionTable.from_json", "", lambda v: FunctionTable.from_json(v, PAPER_POOL), JSON
    yield "FunctionTable.from_json", "pool", lambda v: FunctionTable.from_json(text(), v), POOL

    noisy = ("gumbel_straight_through", "gumbel_softmax", "sampled_straight_through", "gumbel_rao")
    for name in (*noisy, "reinmax", "straight_through", "soft_mixture"):
        f = getattr(estimators, name)
        yield name, "logits", lambda v, f=f: f(v, KEY, 1.0), FLOATS
        bad = (jnp.zeros(6), jnp.zeros((1, 3, 6)), jnp.array(0.0))
        yield name, "logits", lambda v, f=f: f(v, KEY, 1.0), bad
        yield name, "=NaN", lambda v, f=f: f(v, KEY, 1.0), (NAN_LOGITS, np.asarray(NAN_LOGITS))
        yield name, "temperature", lambda v, f=f: f(LOGITS, KEY, v), (None, *TEMPERATURE)
        if name in (*noisy, "reinmax"):
            yield name, "key", lambda v, f=f: f(LOGITS, v, 1.0), KEYS
            yield name, "=no key", lambda v, f=f: f(LOGITS, v, 1.0), (None,)
            yield name, "noise", lambda v, f=f: f(LOGITS, KEY, 1.0, noise=v), (None, *NOISE)
            bad = (*INT, 0, -1, "example")
            yield name, "draws", lambda v, f=f: f(LOGITS, KEY, 1.0, draws=v), bad
    yield "deterministic", "logits", estimators.deterministic, FLOATS
    yield "deterministic", "=NaN", estimators.deterministic, (NAN_LOGITS,)
    samples = lambda v: estimators.gumbel_rao(LOGITS, KEY, 1.0, num_samples=v)
    yield "gumbel_rao", "num_samples", samples, (*INT, 0, -3)

    here = "SelectiveActivation"
    options = {
        **{"pool": POOL, "estimator": (None, *FUNCTION), "temperature": (None, *TEMPERATURE)},
        **{"noise": (None, *NOISE), "draws": (None, *DRAWS), "axis": INT, "start": START},
        **{"deterministic": (None, *BOOL), "logits_init": FUNCTION, "groups": GROUPS},
        **{"dtype": DTYPE, "param_dtype": DTYPE},
    }
    for name, values in options.items():
        yield here, name, make(name), values
        yield f"{here} the model", name, linen_call(name), values
    yield here, "features", make("features"), (*INT, 0, -2)
    yield f"{here} ", "features", linen_call("features"), (*INT[1:], 0, -2)
    yield here, "keep_rngs", make("keep_rngs"), (None, *BOOL)
    yield here, "rngs", make("rngs"), (None, *RNGS)
    yield here, "'params'", make("rngs"), (nnx.Rngs(selection=0),)
    yield here, "probability", lambda v: make("start")(("relu", v)), PROBABILITY
    yield "ActivationPool", "function", lambda v: make("start")((v, 0.9)), ("nope", "")
    for name, values in (("temperature", TEMPERATURE), ("noise", NOISE), ("deterministic", BOOL)):
        yield here, name, lambda v, name=name: call(**{name: v}), values
        yield here, name, lambda v, name=name: nnx.view(ACT, **{name: v}), values
        apply = lambda v, n: LINEN.apply(VARIABLES, X, rngs={"selection": KEY}, **{n: v})
        yield f"{here} the model", name, lambda v, n=name, f=apply: f(v, n), values
    yield here, "estimator", lambda v: nnx.view(ACT, estimator=v), FUNCTION
    yield here, "rngs", lambda v: call(rngs=v), RNGS
    yield here, "x", ACT, FLOATS
    yield "mix", "=[2, 4]", lambda v: ACT(v, deterministic=True), (jnp.ones((2, 4)),)
    yield "mix", "axis", lambda v: make("axis")(v)(X, deterministic=True), (2, -3)
    yield f"{here} the model", "x", lambda v: LINEN.apply(VARIABLES, v), FLOATS
    yield f"{here} the model", "axis", linen_call("axis"), (2, -3)
    yield "mix", "selection", lambda v: make("estimator")(lambda *_: v)(X, rngs=nnx.Rngs(0)), (3,)

    yield "MixedActivation", "table", MixedActivation, TABLES
    yield "MixedActivation", "axis", lambda v: MixedActivation(TABLE, axis=v), INT
    yield "MixedActivation", "dtype", lambda v: MixedActivation(TABLE, dtype=v), DTYPE
    yield "MixedActivation", "static", lambda v: MixedActivation(TABLE, static=v), (None, *BOOL)
    yield "MixedActivation", "x", MixedActivation(TABLE), FLOATS
    yield "apply_choices", "=[2, 4]", MixedActivation(TABLE), (jnp.ones((2, 4)),)
    mixed = lambda **options: linen.MixedActivation(**{"table": TABLE, **options}).apply({}, X)
    here = "MixedActivation the model"
    yield here, "table", lambda v: mixed(table=v), TABLES
    yield "apply_choices", "axis", lambda v: mixed(axis=v), AXIS
    yield here, "dtype", lambda v: mixed(dtype=v), DTYPE
    yield here, "x", lambda v: linen.MixedActivation(TABLE).apply({}, v), FLOATS

    yield "MLP", "in_features", lambda v: MLP(v, (3,), 2, rngs=nnx.Rngs(0)), (*INT, 0, -1)
    hidden = (None, "34", 3, 3.0, [3.0], ["3"], [True], [None], [0], [3, -1], [[3]], THING)
    hidden = (*hidden, jnp.ones(2))
    yield "MLP", "hidden", lambda v: MLP(3, v, 2, rngs=nnx.Rngs(0)), hidden
    yield "MLP", "out_features", lambda v: MLP(3, (3,), v, rngs=nnx.Rngs(0)), (*INT, 0, -1)
    bad = (None, *FUNCTION)
    yield "MLP", "activation", lambda v: MLP(3, (3,), 2, activation=v, rngs=nnx.Rngs(0)), bad
    yield "MLP", "linear", lambda v: MLP(3, (3,), 2, linear=v, rngs=nnx.Rngs(0)), bad
    yield "MLP", "rngs", lambda v: MLP(3, (3,), 2, rngs=v), (None, *RNGS)
    wide = (None, "x", 3, [1.0], THING, jnp.ones((2, 4)), jnp.ones(()))
    yield "MLP", "x", lambda v: NET(v, rngs=nnx.Rngs(0)), wide
    yield "SelectiveActivation", "rngs", lambda v: NET(X, rngs=v), RNGS
    yield "uniform", "function", uniform, (None, *FUNCTION)

    where = FUNCTION
    yield "fix_choices", "model", fix_choices, MODEL
    yield "fix_choices", "where", lambda v: fix_choices(NET, v), where
    yield "fix_choices", "=NaN", lambda v: fix_choices(with_nan()), (NAN,)
    yield "fix_choices", "=where takes none", lambda v: fix_choices(NET, lambda *_: v), (False,)
    release = lambda *a, **k: release_choices(*a, **{"rngs": nnx.Rngs(0), **k})
    yield "release_choices", "model", release, MODEL
    yield "release_choices", "where", lambda v: release(FIXED, v), where
    yield "release_choices", "probability", lambda v: release(FIXED, probability=v), PROBABILITY
    yield "release_choices", "rngs", lambda v: release(FIXED, rngs=v), (None, *RNGS)
    yield "release_choices", "keep_rngs", lambda v: release(FIXED, keep_rngs=v), (None, *BOOL)
    for name in ("temperature", "noise", "estimator", "groups", "draws"):
        options_ = lambda v, name=name: release(FIXED, **{name: v})
        yield "release_choices: activations.0: SelectiveActivation", name, options_, options[name]
    bad = (None, 3, [], THING)
    yield "label_parameters", "selection", lambda v: label_parameters({}, selection=v), bad
    yield "label_parameters", "weights", lambda v: label_parameters({}, weights=v), bad
    yield "summarize", "model", summarize, MODEL
    yield "summarize", "=NaN", lambda v: summarize(with_nan()), (NAN,)
    yield "selection_logits", "model", selection_logits, MODEL
    yield "summarize_logits", "logits", lambda v: summarize_logits(v, PAPER_POOL), FLOATS
    bad = (jnp.zeros(6), jnp.zeros((1, 3, 6)), jnp.zeros((3, 5)))
    yield "summarize_logits", "logits", lambda v: summarize_logits(v, PAPER_POOL), bad
    yield "summarize_logits", "=NaN", lambda v: summarize_logits(v, PAPER_POOL), (NAN_LOGITS,)
    yield "summarize_logits", "pool", lambda v: summarize_logits(LOGITS, v), POOL
    yield "statistics", "logits", statistics, (*FLOATS, jnp.zeros(6))
    yield "switch_report", "model", lambda v: switch_report(v, lambda *_: 0.0, nnx.Rngs(0)), MODEL
    yield "switch_report", "score", lambda v: switch_report(NET, v, nnx.Rngs(0)), (None, *FUNCTION)
    yield "switch_report", "rngs", lambda v: switch_report(NET, lambda *_: 0.0, v), (None, *RNGS)

    modules = (None, "m", 3, nn.Dense, {}, THING, NET, jax.nn.relu)
    collections = (None, "v", 3, [], {}, {"a": 1}, VARIABLES["params"], THING, jnp.ones(2), NET)
    collections = (*collections, {"params": 3}, {"params": [LOGITS]}, {"choices": LOGITS})
    score = lambda *_: 0.0
    report = lambda m, v, f=score, key=KEY: linen.switch_report(m, v, f, key)
    for function, held in (
        (linen.fix_choices, VARIABLES),
        (linen.release_choices, CHOSEN),
        (linen.summarize, VARIABLES),
        (report, VARIABLES),
    ):
        name = "switch_report" if function is report else function.__name__
        yield name, "module", lambda v, f=function, held=held: f(v, held), modules
        yield name, "variables", lambda v, f=function: f(LINEN, v), collections
    yield "fix_choices", "where", lambda v: linen.fix_choices(LINEN, VARIABLES, v), where
    yield "release_choices", "where", lambda v: linen.release_choices(LINEN, CHOSEN, v), where
    bad = {"params": {"selection_logits": NAN_LOGITS}}
    yield "fix_choices", "=NaN", lambda v: linen.fix_choices(LINEN, v), (bad,)
    yield "summarize", "=NaN", lambda v: linen.summarize(LINEN, v), (bad,)
    held = lambda v: {"params": {"selection_logits": v}}
    bad = ("x", 3, [1.0], jnp.zeros((3, 6), int))
    yield "fix_choices", "logits", lambda v: linen.fix_choices(LINEN, held(v)), bad
    chance = lambda v: linen.release_choices(LINEN, CHOSEN, probability=v)
    yield "release_choices", "probability", chance, PROBABILITY
    kind = lambda v: linen.release_choices(LINEN, CHOSEN, param_dtype=v)
    yield "release_choices", "param_dtype", kind, DTYPE
    yield "switch_report", "score", lambda v: report(LINEN, VARIABLES, v), (None, *FUNCTION)
    yield "switch_report", "key", lambda v: report(LINEN, VARIABLES, key=v), (None, *KEYS)

    here = "select_activations"
    convert = lambda v: select_activations(v, X, rngs=nnx.Rngs(0))
    yield here, "model", convert, MODEL
    yield here, "pool", lambda v: converted(pool=v), POOL
    yield here, "probability", lambda v: converted(start=v), PROBABILITY[1:]
    yield here, "functions", lambda v: converted(functions=v), (None, 3, "relu", [3], [None], THING)
    for name in ("where", "call", "report"):
        yield here, name, lambda v, name=name: converted(**{name: v}), FUNCTION
    yield here, "rngs", lambda v: converted(rngs=v), (None, *RNGS)
    yield here, "keep_rngs", lambda v: converted(keep_rngs=v), (None, *BOOL)
    for name in ("temperature", "noise", "estimator", "groups", "draws", "axis", "dtype"):
        yield here, name, lambda v, name=name: converted(**{name: v}), options[name]
    yield here, "='tau'", lambda v: converted(tau=v), (3,)
    layers = (None, 3, "x", [ACT], {"a": 3}, {3: 3}, {}, ACT, THING)
    yield "ActivationByWidth", "layers", ActivationByWidth, layers
    yield "ActivationByWidth", "axis", lambda v: ActivationByWidth({3: ACT}, axis=v), INT
    yield "ActivationByWidth", "x", ActivationByWidth({3: ACT}), FLOATS
    yield "one_random_entry", "value", one_random_entry, (None, *NUMBER, NAN, INF)


ROWS = list(rows())


def frozen(value: Any) -> Any:
    """As a Linen module keeps an attribute."""
    if isinstance(value, dict):
        return FrozenDict(value)
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def forms(value: Any) -> Iterator[str]:
    """How a message may show a value: itself, its number or shape, or the part that is wrong."""
    yield shown(value)
    yield shown(frozen(value))
    yield shown(str(value))
    if isinstance(value, jax.Array | np.ndarray):
        yield str(list(value.shape))
    if isinstance(value, list):
        yield str(list(np.asarray(value, object).shape))
    if isinstance(value, jax.Array | np.generic) and not np.shape(value) and value is not KEY:
        yield str(float(value))
    if isinstance(value, dict):
        yield from map(shown, (*value, *value.values()))
    elif isinstance(value, list | tuple | str) or np.ndim(value):
        yield from map(shown, value)


def fault(place: str, argument: str, call: Callable[[Any], Any], value: Any) -> str | None:
    """What is wrong with the error of a bad value, or None."""
    try:
        call(value)
    except (TypeError, ValueError) as error:
        message = str(error)
    except Exception as error:
        return repr(error)
    else:
        return "no error"
    if argument.startswith("="):
        named = argument[1:] in message
    else:
        named = argument in message and any(form in message for form in forms(value))
    return None if named and "\n" not in message and message.startswith(place.strip()) else message


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_bad_input_is_one_line_with_the_place_the_argument_and_the_value(row):
    place, argument, call, values = row
    faults = [(shown(value), fault(place, argument, call, value)) for value in values]
    assert [pair for pair in faults if pair[1]] == []


def test_the_table_covers_every_public_name():
    assert sum(len(row[3]) for row in ROWS) >= 2000
    text = " ".join(row[0] + " " + row[1] for row in ROWS).replace("_", "")
    makers = {"Coefficients", "Selection", "SelectionLogits", "estimators", "__version__"}
    names = {name for name in smartmixed_jax.__all__ if not name.endswith("_POOL")} - makers
    assert {name for name in names if name.replace("_", "") not in text} == set()


def poly(x: Any) -> Any:
    return x * x


GOOD = {
    "temperature": (
        1,
        2.5,
        np.float32(1),
        np.array(0.5),
        jnp.array(2.0),
        jnp.array(1),
        np.int64(3),
    ),
    "noise": (0, 1, 0.0, np.float64(0.5), jnp.array(0.0), np.array(1)),
    "draws": (1, np.int64(1)),
    "features": (3, np.int32(3)),
    "axis": (-1, 1, np.int64(1)),
    "deterministic": (True, False, np.bool_(True)),
    "groups": (None, 1, 3, [0, 1, 0], (0, 0, 0), np.array([0, 1, 2]), jnp.array([0, 1, 1])),
    "start": (None, ("relu", 0.9), ["tanh", np.float32(0.5)]),
    "logits_init": (None, nnx.initializers.zeros, one_random_entry(1)),
    "dtype": (None, jnp.float32, "bfloat16", jnp.bfloat16, np.dtype("float16"), float),
    "param_dtype": (jnp.bfloat16, "float32", np.float16),
    "keep_rngs": (True, False),
    "pool": (ActivationPool({"poly": poly, "sin": jnp.sin, "leaky": leaky_relu(1)}),),
    "estimator": (estimators.soft_mixture, lambda *args, **options: HARD),
}


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_options_raise_nothing(name):
    for value in GOOD[name]:
        act = make(name)(value)
        if name not in ("groups", "logits_init", "start"):
            assert act(X, rngs=nnx.Rngs(0)).shape == X.shape
        if name != "keep_rngs":
            linen_module(name, value).init(KEY, X)


def test_ordinary_input_raises_nothing():
    names = list(PAPER_POOL.names)
    for choices in ([0, 1, 2], (0, 1, 2), range(3), np.arange(3, dtype=np.uint8), jnp.arange(3)):
        assert apply_choices(X, choices, PAPER_POOL).shape == X.shape
        assert FunctionTable(PAPER_POOL, choices) == TABLE
    assert len(FunctionTable(PAPER_POOL, [])) == 0
    for x in (np.ones((2, 3), np.float32), X.astype(jnp.bfloat16), jnp.ones((0, 3)), X.T[:, :3].T):
        assert mix(x, HARD, PAPER_POOL).dtype == x.dtype
    for logits in (np.zeros((3, 6), np.float32), LOGITS.astype(jnp.bfloat16), LOGITS - INF):
        estimators.gumbel_straight_through(logits, jax.random.PRNGKey(0), 1)
        estimators.deterministic(logits)
    for slope in (0, 1, -0.5, np.float32(0.2), jnp.array(0.1)):
        leaky_relu(slope)(X)
    for rngs in (nnx.Rngs(0), nnx.Rngs(params=0, selection=1), nnx.Rngs(0).params):
        SelectiveActivation(3, rngs=rngs, keep_rngs=True)(X)
    for hidden in ((), [3], (n for n in (3, 4)), np.array([3, 4])):
        MLP(3, hidden, 2, activation=uniform(jax.nn.relu), rngs=nnx.Rngs(0))(X)
    pretty = json.dumps({"choices": [0, 1, 2], "pool": names, "date": "today"}, indent=1)
    assert FunctionTable.from_json(pretty, PAPER_POOL) == TABLE
    assert label_parameters({"a": X}, selection="s", weights="") == {"a": ""}


def test_traced_values_are_not_checked_and_transformations_work():
    # NaN logits, a temperature below 0 and a choice out of range: data of a compiled program.
    soft = jax.jit(lambda logits, t: mix(X, estimators.soft_mixture(logits, None, t), PAPER_POOL))
    assert np.isnan(soft(NAN_LOGITS, 1.0)).any()
    assert soft(LOGITS, -1.0).shape == X.shape
    jax.jit(lambda choices: apply_choices(X, choices, PAPER_POOL))(jnp.array([0, 1, 99]))
    jax.jit(statistics)(NAN_LOGITS)
    draw = lambda logits, key: estimators.gumbel_straight_through(logits, key, 1.0).weights
    keys = jax.random.split(KEY, 2)
    assert jax.vmap(draw)(jnp.stack([LOGITS] * 2), keys).shape == (2, 3, 6)
    assert jax.vmap(draw)(jnp.stack([LOGITS] * 2), jax.random.key_data(keys)).shape == (2, 3, 6)
    assert jax.grad(lambda logits: draw(logits, KEY).sum())(LOGITS).shape == (3, 6)
    graphdef, state = nnx.split(NET)
    assert nnx.eval_shape(lambda: nnx.merge(graphdef, state)(X, rngs=nnx.Rngs(0))).shape == (2, 2)
    hot = jax.jit(lambda t: ACT(X, rngs=nnx.Rngs(0), temperature=t, noise=t))
    assert hot(jnp.array(0.5)).shape == X.shape

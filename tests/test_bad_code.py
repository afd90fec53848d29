"""Pools, tasks, networks and functions of the user's that do not fit: one line, nothing written."""

import sys

import pytest
from refusal import assert_refused

MODULE = """
import dataclasses, sys
import numpy as np
import jax, jax.numpy as jnp
from flax import nnx
from experiments.data import Split, Task
from experiments.objective import CLASSIFICATION, NEXT_CHARACTER, REGRESSION
from smartmixed_jax import ActivationPool, SelectiveActivation

DICT = {"relu": jax.nn.relu}
LIST = [jax.nn.relu]
NONE = None
POOL = ActivationPool({"relu": jax.nn.relu, "sin": jnp.sin})
def pool(): return POOL
class Pool(ActivationPool): pass

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X.sum(1, keepdims=True)
C = np.arange(40) % 4
def splits(x=X, y=Y):
    return {part: Split(x, y) for part in ("train", "validation", "test")}
def spoiled(part, what, value, index=(7, 0)):
    found = splits()
    array = np.array(getattr(found[part], what), np.float64)
    array[index] = value
    return {**found, part: found[part]._replace(**{what: array})}
def values(splits, out=1, objective=REGRESSION, **more):
    return lambda: Task("bad", splits, objective, out, **more)
def classes(labels, out=4, **more):
    return lambda: Task("bad", splits(y=labels), CLASSIFICATION, out, **more)
"""
TASKS = {  # an expression → what the line says
    **{
        f"values(spoiled('{part}', '{what}', {value}))": f"{what} of {part}, row 7, column 0: "
        for part in ("train", "validation", "test")
        for what in ("inputs", "labels")
        for value in ("np.nan", "np.inf", "-np.inf", "1e300")
    },
    "values({**splits(), 'outside': Split(X, Y * np.nan)})": "labels of outside, row 0",
    "values(splits(x=np.where(X == X[5, 2], np.nan, X)))": "row 5, column 2: nan",
    "values(splits(x=np.full((40, 2, 3), np.inf, np.float32)))": "row 0, column [0, 0]: inf",
    "values({})": "splits are []",
    "values(None)": "splits are",
    "values([1, 2, 3])": "splits are",
    "values({'train': Split(X, Y)})": "expected train, validation and test",
    "values({**splits(), 'test': (X,)})": "split test",
    "values({**splits(), 'test': None})": "split test is NoneType",
    "values({**splits(), 'test': Split(X[:0], Y[:0])})": "inputs of test",
    "values({**splits(), 'train': Split(X[:0], Y[:0])})": "inputs of train",
    "values({**splits(), 'test': Split(X, Y[1:])})": "[39, 1]",
    "values({**splits(), 'test': Split(X[:, :2], Y)})": "inputs of the splits differ",
    "values({**splits(), 'test': Split(X, C)})": "labels of the splits differ",
    "values(splits(x=X[:, 0]))": "inputs [40]",
    "values(splits(x=np.float32(3)))": "inputs of train are",
    "values(splits(x=X + 1j))": "complex",
    "values(splits(x=X.astype(str)))": "<U",
    "values(splits(x=[[{}]] * 40))": "object",
    "values(splits(x=[[1], [1, 2]]))": "inhomogeneous",
    "values(splits(y=0 * Y))": "variance of the labels of train is 0",
    "values(splits(x=X.astype(np.int64) + 2**40))": "expected int32",
    "values(splits(y=X))": "labels are ['M', 3]",
    "values(splits(), out=0)": "out_features = 0",
    "values(splits(), out=-1)": "out_features = -1",
    "values(splits(), out=2.0)": "out_features = 2.0",
    "values(splits(), out=True)": "out_features = True",
    "values(splits(), out='1')": "out_features = '1'",
    "classes(C, out=10**9)": "GiB",
    "values(splits(), objective=None)": "objective is NoneType",
    "values(splits(), objective='regression')": "objective is str",
    "values(splits(), scale=0)": "scale = 0",
    "values(splits(), scale=-1.0)": "scale = -1.0",
    "values(splits(), scale=np.nan)": "scale = nan",
    "values(splits(), scale=1e-50)": "scale = 1e-50",
    "values(splits(), scale='1')": "scale = '1'",
    "values(splits(), scale=None)": "scale = None",
    "values(splits(), label_scale=np.inf)": "label_scale = inf",
    "values(splits(), label_scale='m')": "label_scale = 'm'",
    "values(splits(), class_names=3)": "not iterable",
    "values(splits(), class_names=(1,))": "class_names",
    "values(splits(), source=3)": "source = 3",
    "values(splits(), extras={'x': X})": "JSON",
    "values(splits(), extras={'x': np.nan, 'y': {1, 2}})": "JSON",
    "values(splits(), extras=3)": "extras",
    "values(splits(), tabulate_fit=3)": "tabulate_fit = 3",
    "classes(C, out=3)": "expected classes 0 to 2",
    "classes(C - 1)": "labels are int32 in [-1, 2]",
    "classes(C + 2**40)": "expected int32",
    "classes(C + 0.5)": "labels are float32",
    "classes(C * np.nan)": "labels",
    "classes(C.astype(str))": "labels of train",
    "classes(C[:, None])": "labels [3, 1]",
    "classes(C, class_names=('a', 'b'))": "2 class_names for 4 classes",
    "values(splits(C[:, None], C[:, None]), 3, NEXT_CHARACTER, scale=None)": "classes 0 to 2",
    "values(splits(C[:, None], -C[:, None]), 4, NEXT_CHARACTER, scale=None)": "classes 0 to 3",
    "lambda: 1 / 0": "ZeroDivisionError",
    "lambda: sys.exit(3)": "SystemExit: 3",
    "lambda: None": "returns NoneType",
    "lambda: splits()": "returns dict",
    "lambda: Task": "returns type",
    "lambda: [0][1]": "IndexError",
    "lambda: np.empty(2**58)": "MemoryError",
    "lambda number: None": "takes number",
    "lambda seed, number: None": "takes seed, number",
    "lambda *, number: None": "'number'",
    "dict": "'bad:it'",
    "3": "is a int, expected a function",
    "None": "is a NoneType",
}
POOLS = {
    "DICT": "is a dict, expected ActivationPool",
    "LIST": "is a list",
    "NONE": "is a NoneType",
    "pool": "is a function",
    "Pool": "is a type",
    "jax.nn.relu": "expected ActivationPool",
    "POOL.functions": "is a tuple",
    "'relu'": "is a str",
}
NETWORKS = {
    "3": "3 is not a callable",
    "None": "None is not a callable",
    "lambda: 3": "TypeError",
    "lambda *given: None": "returns NoneType",
    "lambda *given: 1 / 0": "ZeroDivisionError",
    "lambda *given: nnx.Linear": "returns",
    "lambda shape, out, act, rngs: nnx.Linear(2, out, rngs=rngs)": "holds no selective layer",
    "lambda shape, out, act, rngs: nnx.Linear(10**7, 10**7, rngs=rngs)": "needs about",
    "lambda shape, out, act, rngs: nnx.Sequential(act(7, rngs=rngs))": "fails on inputs",
    "lambda shape, out, act, rngs: nnx.Sequential(act(0, rngs=rngs))": "ValueError",
    "lambda shape, out, act, rngs: nnx.Sequential(act('4', rngs=rngs))": "fails",
}
FUNCTIONS = {
    "3": "is 3",
    "lambda: 3": "takes ()",
    "lambda *x: x": "takes (*x)",
    "lambda x: 3": "returns int64 []",
    "lambda x: None": "returns object",
    "lambda x: 'a'": "<U",
    "lambda x: x[:-1]": "[3999]",
    "lambda x: x[:, None]": "[4000, 1]",
    "lambda x: x + 1j": "complex",
    "lambda x: 1 / 0": "ZeroDivisionError",
    "lambda x: sys.exit(3)": "SystemExit: 3",
    "lambda x: np.log(x)": "is nan at x = ",
    "lambda x: np.nan * x": "is nan at x = ",
    "lambda x: 1e300 + x": "is inf at x = ",
    "lambda x: 0 * x": "variance of the labels of train is 0",
    "lambda x: 1e-30 * x": "variance of the labels of train is 0",
    "lambda x: 1e30 * x": "variance of the labels of train is inf",
}
SOURCES = {
    "syntax": ("x = (", "SyntaxError"),
    "tab": ("if 1:\n\tx=1\n        y=2", "Error"),
    "missing import": ("import nothing_of_that_name", "nothing_of_that_name"),
    "division": ("1 / 0", "ZeroDivisionError"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "many lines": ("raise ValueError('a\\nb' * 9999)", "ValueError: a b"),
    "binary": ("\0\1\2", "null bytes"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "empty": ("", "has no it"),
    "another name": ("that = 3", "has no it; it has that"),
}
MISSING = ["nowhere:it", "nowhere.at.all:it", "bad:", ":it", "bad.py:it", "bad:it.x", "bad:1", "."]
CODE = [
    *(("task", line, text) for line, text in TASKS.items()),
    *(("pool", line, text) for line, text in POOLS.items()),
    *(("network", line, text) for line, text in NETWORKS.items()),
    *(("task function", line, text) for line, text in FUNCTIONS.items()),
]


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("bad", None)
    yield tmp_path
    sys.modules.pop("bad", None)


def options(kind: str, name: str) -> list[str]:
    option, _, prefix = kind.partition(" ")
    task = [] if option == "task" else ["--task", "function:growth"]
    return [*task, f"--{option}", f"{prefix}:{name}".removeprefix(":")]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("kind", "line", "text"), CODE, ids=lambda value: value[:60])
def test_what_the_code_gives_does_not_fit(kind, line, text, working_directory, capsys):
    (working_directory / "bad.py").write_text(f"{MODULE}\nit = {line}\n")
    assert_refused(options(kind, "bad:it"), capsys, text)


@pytest.mark.parametrize("kind", ["task", "task function", "pool", "network"])
@pytest.mark.parametrize("name", SOURCES)
def test_the_module_cannot_be_imported(kind, name, working_directory, capsys):
    source, text = SOURCES[name]
    (working_directory / "bad.py").write_text(source)
    assert_refused(options(kind, "bad:it"), capsys, "bad:it", text)


@pytest.mark.parametrize("kind", ["task", "task function", "pool", "network"])
@pytest.mark.parametrize("name", MISSING)
def test_there_is_no_such_object(kind, name, working_directory, capsys):
    (working_directory / "bad.py").write_text("it = 3")
    assert_refused(options(kind, name), capsys, name)

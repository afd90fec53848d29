"""What the README shows works as printed."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

README = Path(__file__).parents[1] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_three_lines_make_a_model_selective():
    imports, construct, call = (line for line in blocks()[0].splitlines() if line)
    names: dict = {}
    exec(imports, names)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 256, rngs=rngs)
            exec(construct, names, {"self": self, "rngs": rngs})

        def __call__(self, x, rngs=None):
            local = {"self": self, "x": self.linear(x), "rngs": rngs}
            exec(call, names, local)
            return local["x"]

    model = Model(nnx.Rngs(0))
    x = jnp.ones((3, 4))
    first, second = (model(x, nnx.Rngs(selection=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)
    model.eval()
    fixed = names["fix_choices"](model)
    np.testing.assert_array_equal(model(x), fixed(x))
    assert fixed.linear.kernel[...] is model.linear.kernel[...]


def test_the_plain_functions_agree():
    logits = jax.random.normal(jax.random.key(0), (5, 6))
    selected: dict = {
        "logits": logits,
        "key": jax.random.key(1),
        "temperature": 0.5,
        "x": jnp.linspace(-2, 2, 15).reshape(3, 5),
    }
    *phase_1, last = blocks()[1].strip().splitlines()
    exec("\n".join(phase_1), selected)
    first = selected["y"]
    selected["choices"] = np.asarray(selected["selection"].choices)
    exec(last, selected)
    np.testing.assert_array_equal(first, selected["y"])


def test_the_tree_lists_every_file():
    text = README.read_text()
    for folder in ("smartmixed_jax", "experiments"):
        for path in (README.parent / folder).glob("*.py"):
            assert path.name == "__init__.py" or f"{path.name}" in text, path

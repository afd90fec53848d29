"""What the README shows works as printed."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from users_models.attributes import CNN

from smartmixed_jax import SelectiveActivation, fix_choices

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


def test_the_three_lines_make_a_linen_model_selective():
    imports, call, fix = (line for line in blocks()[1].splitlines() if line)
    names: dict = {"nn": nn}
    model = f"""
{imports}

class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(256)(x)
        {call}
        return x
"""
    exec(model, names)
    net, x = names["Model"](), jnp.ones((3, 4))
    variables = net.init(jax.random.key(0), x)
    first, second = (
        net.apply(variables, x, rngs={"selection": jax.random.key(seed)}) for seed in (0, 1)
    )
    assert not np.array_equal(first, second)
    names |= {"net": net, "variables": variables}
    exec(fix, names)
    fixed = names["variables"]
    assert "SelectiveActivation_0" not in fixed["params"]
    assert fixed["params"]["Dense_0"]["kernel"] is variables["params"]["Dense_0"]["kernel"]
    dense = nn.Dense(256).apply({"params": variables["params"]["Dense_0"]}, x)
    quiet = names["linen"].SelectiveActivation(deterministic=True)
    expected = quiet.apply({"params": variables["params"]["SelectiveActivation_0"]}, dense)
    np.testing.assert_allclose(net.apply(fixed, x), expected, rtol=1e-6)


@pytest.mark.graph_mode("layers that keep their rngs")
def test_a_users_model_is_converted_fixed_in_part_and_released(caplog):
    names: dict = {
        "model": CNN(rngs=nnx.Rngs(0)),
        "images": jnp.ones((2, 28, 28, 1)),
        "nnx": nnx,
        "fix_choices": fix_choices,
    }
    with caplog.at_level("INFO", "smartmixed_jax"):
        exec(blocks()[3], names)
    assert "act1" in caplog.text
    assert set(jax.tree.leaves(names["labels"])) == {"weights", "selection"}
    kinds = [type(getattr(names["part"], f"act{i}")).__name__ for i in (1, 2, 3)]
    assert kinds == ["MixedActivation", "SelectiveActivation", "SelectiveActivation"]
    assert type(names["back"].act1) is SelectiveActivation


def test_the_plain_functions_agree():
    logits = jax.random.normal(jax.random.key(0), (5, 6))
    selected: dict = {
        "logits": logits,
        "key": jax.random.key(1),
        "temperature": 0.5,
        "x": jnp.linspace(-2, 2, 15).reshape(3, 5),
    }
    *phase_1, last = blocks()[2].strip().splitlines()
    exec("\n".join(phase_1), selected)
    first = selected["y"]
    selected["choices"] = np.asarray(selected["selection"].choices)
    exec(last, selected)
    np.testing.assert_array_equal(first, selected["y"])


def test_the_tree_lists_every_file():
    text = README.read_text()
    packages = ("training", "data", "figures")
    for folder in ("smartmixed_jax", "experiments", *(f"experiments/{name}" for name in packages)):
        for path in (README.parent / folder).glob("*.py"):
            assert path.name in ("__init__.py", "__main__.py") or path.name in text, path

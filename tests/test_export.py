"""Exported networks: the same outputs for any batch, without this library, or nothing at all."""

import dataclasses
import functools
import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from experiments import evaluate, export
from experiments.presets import default_config
from experiments.training.models import ConvNet, ResNet, Transformer
from experiments.training.train import train_and_evaluate
from smartmixed_jax import (
    EXTENDED_POOL,
    MLP,
    PAPER_POOL,
    REGRESSION_POOL,
    ActivationPool,
    FunctionTable,
    MixedActivation,
    SelectiveActivation,
    fix_choices,
    leaky_relu,
    linen,
)
from smartmixed_jax.export import METADATA, load_stablehlo, to_onnx, to_stablehlo

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SLOPES = ActivationPool(
    {
        "relu": jax.nn.relu,
        "half": leaky_relu(0.5),
        "down": leaky_relu(-0.3),
        "steep": leaky_relu(2.0),
        "own": lambda x: jnp.where(x > 1, jnp.log1p(jnp.abs(x)), jnp.clip(x, -0.5, 0.7)),
    }
)
IMAGE = (8, 8, 3)


def mixed(pool, seed=0):
    """A factory of fixed layers, each function of the pool in every one that is wide enough."""
    rng = np.random.default_rng(seed)

    def build(features, *, rngs=None):
        choices = np.arange(features) % len(pool)
        return MixedActivation(FunctionTable(pool, rng.permutation(choices)))

    return build


def mlp(pool):
    return MLP(6, (32, 17), 3, activation=mixed(pool), rngs=nnx.Rngs(0))


def resnet():
    model = ResNet(10, blocks=1, widths=(8, 16), activation=mixed(PAPER_POOL), rngs=nnx.Rngs(0))
    model.train()
    for seed in range(2):  # running statistics other than 0 and 1
        model(2 + 3 * jax.random.normal(jax.random.key(seed), (8, *IMAGE)))
    model.eval()
    return model


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = linen.SelectiveActivation(logits_init=nn.initializers.normal())(nn.Dense(16)(x))
        return nn.Dense(3)(linen.SelectiveActivation(groups=4)(nn.Dense(8)(x)))


def linen_mlp():
    net = LinenMLP()
    return linen.fix_choices(net, net.init(jax.random.key(0), jnp.ones((1, 6))))


MODELS = {
    "paper": lambda: (mlp(PAPER_POOL), (6,)),
    "regression": lambda: (mlp(REGRESSION_POOL), (6,)),
    "extended": lambda: (mlp(EXTENDED_POOL), (6,)),
    "matched": lambda: (mlp(PAPER_POOL.variance_matched()), (6,)),
    "slopes": lambda: (mlp(SLOPES), (6,)),
    "uniform": lambda: (
        MLP(6, (8,), 3, activation=lambda n, rngs: jax.nn.gelu, rngs=nnx.Rngs(0)),
        (6,),
    ),
    "conv": lambda: (
        ConvNet(
            IMAGE, 10, channels=(8, 12), hidden=16, activation=mixed(PAPER_POOL), rngs=nnx.Rngs(0)
        ),
        IMAGE,
    ),
    "resnet": lambda: (resnet(), IMAGE),
    "transformer": lambda: (
        Transformer(
            11, 8, features=16, layers=2, heads=2, activation=mixed(PAPER_POOL), rngs=nnx.Rngs(0)
        ),
        (8,),
    ),
    "channels first": lambda: (ChannelsFirst(), (5, 4)),
    "stacked": lambda: (Stacked(), (6,)),
}


class ChannelsFirst(nnx.Module):
    def __init__(self):
        self.act = MixedActivation(FunctionTable(PAPER_POOL, [0, 1, 2, 5, 4]), axis=1)

    def __call__(self, x):
        return jnp.sum(self.act(x), -1)


class Stacked(nnx.Module):
    """Layers made by nnx.vmap, their choices data, applied by nnx.scan."""

    def __init__(self):
        @nnx.vmap(in_axes=0, out_axes=0)
        def build(key):
            return Block(nnx.Rngs(key))

        self.blocks = fix_choices(build(jax.random.split(jax.random.key(0), 3)))

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return run(self.blocks, x)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(6, 6, rngs=rngs)
        self.act = SelectiveActivation(6, logits_init=nnx.initializers.normal(), rngs=rngs)

    def __call__(self, x):
        return self.act(self.linear(x))


def inputs(shape, batch, tokens=False):
    rng = np.random.default_rng(batch)
    if tokens:
        return rng.integers(0, 11, (batch, *shape)).astype(np.int32)
    return (2 * rng.normal(size=(batch, *shape))).astype(np.float32)


def session(model):
    run = onnxruntime.InferenceSession(model.SerializeToString()).run
    return lambda x: run(None, {"input": x})[0]


def assert_same(call, model, shape, **options):
    """One file serves batches of 1 and 5."""
    for batch in (1, 5):
        x = inputs(shape, batch, **options)
        expected = np.asarray(model(x))
        got = np.asarray(call(x))
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, abs(expected).max()))


@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_what_the_model_gives(name):
    model, shape = MODELS[name]()
    tokens = name == "transformer"
    exported = to_onnx(model, inputs(shape, 1, tokens))
    onnx.checker.check_model(exported, full_check=True)
    assert [(entry.domain, entry.version) for entry in exported.opset_import] == [("", 18)]
    assert_same(session(exported), model, shape, tokens=tokens)


@pytest.mark.parametrize("name", ["paper", "resnet", "transformer"])
def test_stablehlo_gives_what_the_model_gives(name, tmp_path):
    model, shape = MODELS[name]()
    tokens = name == "transformer"
    content = to_stablehlo(model, inputs(shape, 1, tokens), path=tmp_path / "net.zip")
    assert (tmp_path / "net.zip").read_bytes() == content
    assert_same(load_stablehlo(tmp_path / "net.zip"), model, shape, tokens=tokens)


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_linen(form):
    net, variables = linen_mlp()
    x = inputs((6,), 1)
    if form == "onnx":
        exported = to_onnx(net, x, variables=variables)
        call, tables = session(exported), header(exported)["tables"]
    else:
        call = load_stablehlo(to_stablehlo(net, x, variables=variables))
        tables = call.tables
    assert_same(call, functools.partial(net.apply, variables), (6,))
    (choices,) = variables["choices"]["SelectiveActivation_0"].values()
    assert tables["SelectiveActivation_0"]["pool"] == list(PAPER_POOL.names)
    assert tables["SelectiveActivation_0"]["choices"] == np.asarray(choices).tolist()


def header(exported):
    return json.loads({entry.key: entry.value for entry in exported.metadata_props}[METADATA])


def test_the_tables_and_the_signature_are_in_the_file():
    model = mlp(PAPER_POOL)
    loaded = load_stablehlo(to_stablehlo(model, inputs((6,), 1)))
    record = header(to_onnx(model, inputs((6,), 1)))
    assert record["tables"] == loaded.tables
    assert record["input"] == loaded.header["input"] == {"shape": ["batch", 6], "dtype": "float32"}
    assert record["output"] == {"shape": ["batch", 3], "dtype": "float32"}
    assert loaded.tables["activations.1"] == json.loads(model.activations[1].table.to_json())


def test_a_layer_is_few_operators_and_the_order_of_neurons_none():
    """ReLU alone is one node; of several functions the weights take the order."""
    pool = PAPER_POOL.subset("relu", "tanh", "sigmoid")
    operators = [node.op_type for node in to_onnx(mlp(pool), inputs((6,), 1)).graph.node]
    layer = ["Gemm", "Split", "Relu", "Tanh", "Sigmoid", "Concat"]
    assert operators == [*layer, *layer, "Gemm"]
    relu = MLP(6, (8,), 3, activation=mixed(PAPER_POOL.subset("relu")), rngs=nnx.Rngs(0))
    operators = [node.op_type for node in to_onnx(relu, inputs((6,), 1)).graph.node]
    assert operators == ["Gemm", "Relu", "Gemm"]
    nodes = [node.op_type for node in to_onnx(resnet(), inputs(IMAGE, 1)).graph.node]
    assert nodes.count("Conv") == 5
    assert not {"Sqrt", "Reciprocal"} & set(nodes)  # the normalisations are part of the weights


def test_onnx_runs_in_a_process_without_jax(tmp_path):
    model = mlp(PAPER_POOL)
    to_onnx(model, inputs((6,), 1), path=tmp_path / "net.onnx")
    x = inputs((6,), 5)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules.update(jax=None, flax=None, smartmixed_jax=None)\n"
        "import numpy, onnxruntime\n"
        "run = onnxruntime.InferenceSession('net.onnx').run\n"
        "numpy.save('y.npy', run(None, {'input': numpy.load('x.npy')})[0])\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('jaxlib', 'onnx')]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), jax.jit(model)(x), atol=1e-5)


def test_a_jax_function_is_exported_too():
    weights = jax.random.normal(jax.random.key(0), (6, 4))

    def net(x):
        x = jax.checkpoint(lambda x: jnp.tanh(x @ weights))(x)
        return jax.nn.softmax(jnp.concatenate([x, x[:, ::-1], x[:, 1:3]], -1), -1).max(-1)

    assert_same(session(to_onnx(net, inputs((6,), 1))), net, (6,))


def test_an_export_leaves_nothing_behind():
    """The model trains on as before, and computes what it did, to the bit."""
    model, x = mlp(PAPER_POOL), inputs((6,), 5)
    act = model.activations[0]
    rematted = jax.checkpoint(lambda x: act(x))

    def loss(x):
        return jnp.sum(rematted(x @ jnp.ones((6, 32))) ** 2)

    before = jax.grad(loss)(x), model(x)
    to_onnx(lambda x: rematted(x @ jnp.ones((6, 32))), x)
    np.testing.assert_array_equal(before[0], jax.grad(loss)(x))
    np.testing.assert_array_equal(before[1], model(x))


# What is refused


def test_a_primitive_without_a_form_is_named(tmp_path):
    path = tmp_path / "net.onnx"
    for function, name in (
        (lambda x: jnp.sort(x), "'sort'"),
        (lambda x: jnp.fft.fft(x).real, "'fft'"),
        (lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x - 1, x), "'while'"),
        (lambda x: (x.astype(jnp.bfloat16) * 2).astype(jnp.float32), "bfloat16"),
    ):
        with pytest.raises(ValueError, match=name) as error:
            to_onnx(function, inputs((6,), 1), path=path)
        assert str(error.value).startswith("to_onnx: ")
        assert "\n" not in str(error.value)
    assert not path.exists()


@pytest.mark.parametrize("export_", [to_onnx, to_stablehlo])
def test_wrong_arguments_are_one_line(export_):
    x = inputs((6,), 1)
    selective = MLP(6, (8,), 3, rngs=nnx.Rngs(0))
    net, model = LinenMLP(), mlp(PAPER_POOL)
    variables = net.init(jax.random.key(0), x)
    for kind, message, call in (
        (ValueError, "activations.0 still selects", lambda: export_(selective, x)),
        (ValueError, "still selects", lambda: export_(net, x, variables=variables)),
        (TypeError, "variables must be", lambda: export_(net, x)),
        (
            TypeError,
            "variables are of a Linen module",
            lambda: export_(model, x, variables={}),
        ),
        (TypeError, "must be a function", lambda: export_(3, x)),
        (TypeError, "example must be", lambda: export_(model, 3)),
        (TypeError, "path must be", lambda: export_(model, x, path=3)),
        (
            ValueError,
            r"fails on the example: .*\[\.\.\., 6\]",
            lambda: export_(model, x.T),
        ),
        (ValueError, "returns 2 arrays", lambda: export_(lambda x: (x, x), x)),
        (ValueError, "needs the batch as a number", lambda: export_(lambda x: x * len(x), x)),
    ):
        with pytest.raises(kind, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        to_onnx(mlp(PAPER_POOL), inputs((6,), 1))


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "net.zip"
    content = to_stablehlo(mlp(PAPER_POOL), inputs((6,), 1), path=path)
    with zipfile.ZipFile(path) as file:
        record, program = json.loads(file.read("header.json")), file.read("program.bin")

    def rewritten(program, **changes):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("header.json", json.dumps({**record, **changes}))
            file.writestr("program.bin", program)
        return path

    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for make, message in (
        (lambda: b"nothing", "no file of to_stablehlo"),
        (lambda: content[:-30], "no file of to_stablehlo"),
        (lambda: bytes(flipped), "damaged"),
        (lambda: rewritten(program[:-1]), "damaged"),
        (lambda: rewritten(program, format=2), "format 2, this version reads format 1"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load_stablehlo(make())
        assert "\n" not in str(error.value)
    with pytest.raises(OSError, match="absent"):
        load_stablehlo(tmp_path / "absent")


def test_a_loaded_network_refuses_other_inputs():
    loaded = load_stablehlo(to_stablehlo(mlp(PAPER_POOL), inputs((6,), 1)))
    for x in (np.zeros((2, 5), np.float32), np.zeros(6, np.float32), np.zeros((2, 6), np.int32)):
        with pytest.raises(ValueError, match=r"takes float32\[batch, 6\], got"):
            loaded(x)


# A run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    settings = dict(hidden=(16, 8), selective_epochs=1, mixed_epochs=1, steps_per_epoch=5)
    config = dataclasses.replace(default_config(task="digits"), run_dir=str(folder), **settings)
    train_and_evaluate(config, show_progress=False)
    return folder


def test_a_run_is_exported_and_its_file_predicts_what_the_run_does(folder, capsys):
    run = evaluate.load_run(folder)
    images = np.asarray(evaluate.load_data(run).splits["test"].inputs)
    expected = run.outputs(images)
    for form, name in export.FORMATS.items():
        assert export.main([str(folder), "--format", form]) == 0
        printed = capsys.readouterr().out
        assert "0 other predictions" in printed
        path = folder / name
        call = export.onnx_session(path.read_bytes()) if form == "onnx" else load_stablehlo(path)
        got = np.asarray(call(images))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, abs(expected).max()))
        assert (got.argmax(-1) == expected.argmax(-1)).all()
    record = header(onnx.load(folder / export.FORMATS["onnx"]))
    assert list(record["tables"]) == list(run.tables)
    assert record["input"] == {"shape": ["batch", 8, 8, 1], "dtype": "uint8"}


@pytest.mark.parametrize("form", list(export.FORMATS))
def test_a_wrong_file_is_not_written(folder, tmp_path, monkeypatch, capsys, form):
    """One output that is off by a little, or one prediction that differs: neither is written."""
    function = export.network_function

    def off(run):
        exact = function(run)
        return lambda x: exact(x) + 1e-3 if off.calls() else exact(x)

    calls = iter(range(10))
    off.calls = lambda: next(calls) == 0  # the export's tracing; the comparison is exact
    monkeypatch.setattr(export, "network_function", off)
    out = tmp_path / "file"
    assert export.main([str(folder), "--format", form, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "nothing was written" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="1 other predictions"):
        export.require_parity(form, export.Parity(9, 1e-7, 1))
    with pytest.raises(ValueError, match="off by nan"):
        export.require_parity(form, export.Parity(9, float("nan"), 0))


def test_a_command_that_does_not_fit_is_one_line(folder, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path), "--format", "onnx"], "is no run folder"),
        (
            [str(folder), "--format", "onnx", "--out", str(tmp_path / "no" / "a")],
            "there is no folder",
        ),
    ):
        assert export.main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

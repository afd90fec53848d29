"""Exported networks: seconds per batch, and bytes of the file, in onnxruntime and in compiled JAX.

The fixed network has random choices of the paper's six functions; beside it the same network with
ReLU and with GELU everywhere. An MLP 784-512-256-128-64-10 and ResNet-20, batches of 1 and 256.
Before anything is timed, each file must give what its network gives.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmarks import harness
from experiments.benchmarks.harness import BenchmarkError, Row
from experiments.training.models import ResNet
from smartmixed_jax import MLP, PAPER_POOL, FunctionTable, MixedActivation
from smartmixed_jax.export import load_stablehlo, to_onnx, to_stablehlo
from smartmixed_jax.models import ActivationFactory, uniform

TOLERANCE = 1e-5


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows for each network, runtime, batch and activation; ratios to uniform ReLU and GELU."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        raise BenchmarkError("needs the packages: pip install onnx onnxruntime") from None
    results = []
    for name, (build, shape) in networks(options.smoke).items():
        models = {key: build(activation) for key, activation in activations().items()}
        files = {key: export(model, shape) for key, model in models.items()}
        for batch in (1, 4) if options.smoke else (1, 256):
            rng = np.random.default_rng(0)
            inputs = [rng.normal(size=(batch, *shape)).astype(np.float32) for _ in range(3)]
            runtimes = {
                "onnxruntime": {key: in_onnxruntime(onnx) for key, (onnx, _) in files.items()},
                "JAX": {key: in_jax(stablehlo) for key, (_, stablehlo) in files.items()},
            }
            for runtime, calls in runtimes.items():
                for key, call in calls.items():
                    expected = np.asarray(jax.jit(models[key])(inputs[0]), np.float64)
                    harness.require_close(f"{name} {key}", [call(inputs[0])], [expected], TOLERANCE)
                variants = {key: _variant(call, inputs) for key, call in calls.items()}
                repeats = 1 if name == "ResNet-20" or options.smoke else 10
                repeats *= 1 if batch > 1 or options.smoke else 10
                times = harness.time_interleaved(variants, rounds=options.rounds, calls=repeats)
                setting: dict[str, Any] = {"network": name, "runtime": runtime, "batch": batch}
                rows = harness.rows(times, ("relu", "gelu"), **setting)
                place = 0 if runtime == "onnxruntime" else 1
                results += [{**row, "bytes": len(files[row["variant"]][place])} for row in rows]
    return results


def networks(smoke: bool) -> dict[str, tuple[Callable[[ActivationFactory], nnx.Module], Any]]:
    """Name → what builds it with an activation, and the shape of an input."""
    widths = (12, (16, 8), 4) if smoke else (784, (512, 256, 128, 64), 10)
    small = {"blocks": 1, "widths": (8,)} if smoke else {}
    size = 8 if smoke else 32

    def mlp(activation: ActivationFactory) -> MLP:
        return MLP(*widths, activation=activation, rngs=nnx.Rngs(0))

    def resnet(activation: ActivationFactory) -> ResNet:
        model = ResNet(10, activation=activation, rngs=nnx.Rngs(0), **small)  # type: ignore[arg-type]
        model.eval()
        return model

    return {"MLP": (mlp, (widths[0],)), "ResNet-20": (resnet, (size, size, 3))}


def activations() -> dict[str, ActivationFactory]:
    """The uniform ones, and fixed random choices of the paper's pool."""
    rng = np.random.default_rng(0)

    def fixed(features: int, *, rngs: Any) -> MixedActivation:
        del rngs
        choices = rng.integers(len(PAPER_POOL), size=features)
        return MixedActivation(FunctionTable(PAPER_POOL, choices))

    return {"relu": uniform(jax.nn.relu), "gelu": uniform(jax.nn.gelu), "fixed": fixed}


def export(model: nnx.Module, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The ONNX and the StableHLO file of a network."""
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return to_onnx(model, example).SerializeToString(), to_stablehlo(model, example)


def in_onnxruntime(content: bytes) -> Callable[[np.ndarray], Any]:
    """x → output, with as many threads as this process may use cores."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def in_jax(content: bytes) -> Callable[[np.ndarray], Any]:
    """x → output, compiled by JAX."""
    return load_stablehlo(content)


def _variant(call: Callable[[np.ndarray], Any], inputs: Sequence[np.ndarray]) -> harness.Variant:
    return lambda i: call(inputs[i % len(inputs)])


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    return harness.run(harness.parser("serving", __doc__), measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A training step here against the same step in PyTorch, written as the published code writes it,
as it is and through torch.compile, which is what a user would pick instead.

Same network, batch, gradient clipping and Adam; data in memory, no DataLoader. PyTorch runs step
by step, JAX 20 steps in one compiled scan: each as its training loop does. The row `uniform relu`
is what JAX gives to any network; what is above it comes from the form of the layers. `clamped`
clips every function at ±10, as the published phase 1 does.

Only on an idle machine: PyTorch's threads spin while they wait for each other, and a second
program on the same cores makes its steps ten times slower and the ratio worthless. Where others
run, `taskset -c 0 python -m …` gives both sides one thread on one core.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.benchmarks import harness, networks
from experiments.benchmarks.harness import BenchmarkError, Row
from experiments.training.networks import Clamped
from smartmixed_jax import MLP, PAPER_POOL

LIMIT, CLIP, TEMPERATURE = 10.0, 1.0, 1.0

CLAMPED_POOL = PAPER_POOL.map(lambda name, function: Clamped(function, LIMIT))

PARTNERS = {
    "phase 1": "phase 1",
    "phase 1, clamped": "phase 1",
    "phase 2": "phase 2",
    "uniform relu": "uniform relu",
}
"""The networks here, and the PyTorch network each is compared with."""
FORMS = {"pytorch": False, "compiled pytorch": True}
"""Of PyTorch's networks: whether torch.compile takes them."""


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows of the seconds per step on both sides, and PyTorch's time over JAX's."""
    widths = networks.SMOKE_WIDTHS if options.smoke else networks.WIDTHS
    batch, steps = (8, 2) if options.smoke else (128, 20)
    torch, device, setting = _prepare()
    batches = [networks.draw_batches(widths, batch, steps, seed) for seed in range(3)]
    models = {
        "phase 1": networks.build_selective(widths, PAPER_POOL),
        "phase 1, clamped": networks.build_selective(widths, CLAMPED_POOL),
        "phase 2": networks.build_mixed(widths, PAPER_POOL),
        "uniform relu": networks.build_uniform(widths, "relu"),
    }
    host = [(np.asarray(images), np.asarray(labels)) for images, labels, _ in batches]
    variants = {}
    for name, (model, names) in models.items():
        networks.check(name, model, names, batches[0])
        variants[name] = networks.make_variant(model, batches, CLIP)
        if name in PARTNERS.values():
            for form, compiled in FORMS.items():
                twin = _twin(torch, model, names).to(device)
                outputs = torch.loss_and_gradients(twin, *_first(batches), compiled=compiled)
                expected = networks.expect(model, names, batches[0])
                harness.require_close(f"{name} in {form}", outputs, expected, 1e-2)
                variants[f"{name} in {form}"] = torch.make_variant(
                    twin, host, CLIP, compiled=compiled
                )
    times = harness.time_interleaved(variants, rounds=options.rounds, calls=1)
    seconds = {name: float(np.median(of_name)) / steps for name, of_name in times.items()}
    return [
        {
            **setting,
            "batch": batch,
            "network": name,
            **{f"{form}_seconds": seconds[f"{partner} in {form}"] for form in FORMS},
            "jax_seconds": seconds[name],
            "ratios": {
                f"{form} / jax": harness.compare(times[f"{partner} in {form}"], times[name])
                for form in FORMS
            },
        }
        for name, partner in PARTNERS.items()
    ]


def _first(batches: Sequence[networks.Batches]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(batches[0].images[0]), np.asarray(batches[0].labels[0])


def _prepare() -> tuple[Any, str, dict[str, Any]]:
    """The module that holds PyTorch's side, its device, and what a row says about both."""
    try:
        from experiments.benchmarks import published_pytorch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BenchmarkError("this needs PyTorch: pip install torch==2.13.0") from None
    cpus, backend = len(os.sched_getaffinity(0)), jax.default_backend()
    version, device = published_pytorch.configure(cpus, backend != "cpu")
    if (device == "cpu") != (backend == "cpu"):
        raise BenchmarkError(f"JAX runs on {backend} and PyTorch on {device}: nothing to compare")
    return published_pytorch, device, {"torch": version, "threads": cpus}


def _twin(torch: Any, model: MLP, names: networks.Names) -> Any:
    """The PyTorch network with the weights of a network here."""
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    layers = [jax.tree.map(np.asarray, params["layers"][i]) for i in range(len(names) + 1)]
    activations = []
    for i, layer in enumerate(names):
        if "activations" in params:
            logits = np.asarray(params["activations"][i]["selection_logits"])
            activations.append(torch.Selective(logits, TEMPERATURE, LIMIT))
        elif set(layer) == {"relu"}:
            activations.append(torch.torch.nn.ReLU())
        else:
            activations.append(torch.Mixed(layer))
    return torch.build(layers, activations)


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    return harness.run(harness.parser("against_pytorch", __doc__), measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

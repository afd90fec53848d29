"""The trained network of a run as a file: ONNX, or StableHLO.

    python -m experiments.export RUN --format onnx
    python -m experiments.export RUN --format stablehlo [--out FILE]

The file takes raw inputs, as the run's data have them (images uint8, tokens int32, rows of a table
as `encode_inputs` makes them), any number of examples. Before it is written it runs on the whole
test set, ONNX in onnxruntime: it must give the outputs of the network to 1e-5 and the same
prediction for every example, or nothing is written.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments.command_line import Parser, exit_status
from experiments.evaluate import TrainedRun, load_data, load_run
from experiments.machine import require_memory_for_jax
from experiments.run_folder import write_bytes
from experiments.training import networks
from smartmixed_jax.export import load_stablehlo, to_onnx, to_stablehlo

TOLERANCE = 1e-5
"""Of |file − network|, in units of max(1, the largest |output|)."""

BATCH = 256
"""Examples that the file is given at once; the last batch is what remains."""

FORMATS = {"onnx": "network.onnx", "stablehlo": "network.stablehlo.zip"}
"""The file in the run's folder, by format."""


class Parity(NamedTuple):
    """How a file agrees with its network on a test set.

    Attributes:
        examples: that were compared.
        error: the largest |file − network| / max(1, largest |network|).
        different: predictions that differ; 0 where the outputs are no classes.
    """

    examples: int
    error: float
    different: int


def export_run(run: TrainedRun, form: str) -> tuple[bytes, Parity]:
    """The network of a run as the content of a file, compared with the network on the test set.

    Raises:
        ValueError: the file disagrees with the network, or the network cannot be exported.
        DataError: the data cannot be had.
        ImportError: there is no onnx or no onnxruntime.
    """
    inputs = np.asarray(load_data(run).splits["test"].inputs)
    function = network_function(run)
    if form == "onnx":
        content = to_onnx(function, inputs[:1], tables=run.tables).SerializeToString()
        call = onnx_session(content)
    else:
        content = to_stablehlo(function, inputs[:1], tables=run.tables)
        loaded = load_stablehlo(content)
        call = lambda x: np.asarray(loaded(x))  # noqa: E731
    parity = compare(call, jax.jit(function), inputs, run.task.objective.confusion)
    require_parity(form, parity)
    return content, parity


def network_function(run: TrainedRun) -> Callable[[jax.Array], jax.Array]:
    """Raw inputs [B, *task.shape] → outputs of the network itself, float32 [B, ..., K]."""
    graphdef, state = nnx.split(run.network)

    def function(inputs: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, state, copy=True)
        key = jax.random.key(0)  # nothing is drawn
        return networks.run_network(run.config, run.task.scale, model, inputs, key)

    return function


def onnx_session(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """x → output, in onnxruntime on the CPU.

    Raises:
        ImportError: there is no onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(
            "the check of an ONNX file needs onnxruntime: pip install onnxruntime"
        ) from None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def compare(
    call: Callable[[np.ndarray], np.ndarray],
    network: Callable[[jax.Array], jax.Array],
    inputs: np.ndarray,
    classes: bool,
) -> Parity:
    """Runs both on all inputs; classes: the predictions are the largest outputs."""
    error = largest = 0.0
    different = 0
    for first in range(0, len(inputs), BATCH):
        x = inputs[first : first + BATCH]
        got, expected = np.asarray(call(x)), np.asarray(network(jax.numpy.asarray(x)))
        if got.shape != expected.shape or not np.isfinite(got).all():
            raise ValueError(
                f"the exported network gives {list(got.shape)}, or numbers that are not finite, "
                f"for {list(x.shape)}: expected finite {list(expected.shape)}; nothing was written"
            )
        error = max(error, float(np.abs(got.astype(np.float64) - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
        if classes:
            different += int((got.argmax(-1) != expected.argmax(-1)).sum())
    return Parity(len(inputs), error / max(1.0, largest), different)


def require_parity(form: str, parity: Parity) -> None:
    """Raises ValueError unless outputs agree to TOLERANCE and all predictions are equal."""
    if not parity.error <= TOLERANCE or parity.different:
        raise ValueError(
            f"the {form} file is off by {parity.error:.1e} (at most {TOLERANCE:.0e}) with "
            f"{parity.different} other predictions on {parity.examples} test examples; nothing was "
            "written"
        )


def main(arguments: Sequence[str]) -> int:
    """Exports; returns the exit status."""
    parser = Parser(prog="python -m experiments.export", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    parser.add_argument("--out", metavar="FILE", type=Path, help="in place of the run's folder")
    options = parser.parse_args(arguments)

    def work() -> int:
        require_memory_for_jax()
        out = options.out or options.run / FORMATS[options.format]
        if not out.parent.is_dir():
            raise ValueError(f"--out {out}: there is no folder {out.parent}")
        try:
            content, parity = export_run(load_run(options.run), options.format)
        except ImportError as error:
            raise ValueError(str(error)) from None
        write_bytes(out, content)
        print(f"{out}: {len(content):,} bytes")
        print(
            f"on {parity.examples} test examples off by {parity.error:.1e}, "
            f"{parity.different} other predictions"
        )
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

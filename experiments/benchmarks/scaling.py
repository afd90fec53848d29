"""What a training step of an MLP computes, sends and holds on many devices; on paper.

    python -m experiments.benchmarks.scaling                      8, 64 and 512 devices
    python -m experiments.benchmarks.scaling --hidden 8192 8192 --model-axis 8

Nothing is run. D devices, of which M share the neurons of wide layers, so that D/M places share the
batch. The assumptions:

* Every place has the same number b of examples: the batch is b·D/M.
* A dense layer [m, N] takes 2·m·N FLOPs per example forward, 2·m·N for its weights' gradient and,
  unless it is the first, 2·m·N for its input's.
* An activation takes 200 FLOPs per neuron and example in phase 1 and 66 in phase 2, forward and
  backward, as XLA counts them for the paper's pool. Optimiser and loss do not count.
* Numbers are float32. The gradients are summed over the places in one all-reduce per step, those to
  the logits as the J = 5 sums per neuron that the paper's K = 6 functions need. In a ring each
  device sends 2·(D/M − 1)/(D/M) times what it has of them.
* With M > 1 each device has N/M neurons of every hidden layer and of their kernels. Each hidden
  layer but the last is gathered forward, (M − 1)/M·b·N numbers, and the gradient to it summed
  backward, twice as many; the outputs are summed forward. The activation itself sends nothing.
* A device holds its parameters and logits, two moments of Adam, the best parameters and the
  gradient: five numbers for each.
* Times: 5e13 FLOP/s and 5e10 B/s per device, 1e-5 s for each pass of a ring: 2·(D/M − 1) of the
  gradients, M − 1 and 2·(M − 1) of a layer. Nothing happens at once, and no tree is used where a
  ring has many passes. `--flops`, `--bandwidth` and `--latency` describe another machine.
"""

import itertools
import sys
from collections.abc import Sequence
from typing import NamedTuple

from experiments.command_line import Parser, exit_status

FUNCTIONS, SUMS = 6, 5
"""K of the paper's pool, and J, the sums over the batch that the gradient to its logits needs."""
SELECTIVE_FLOPS, FIXED_FLOPS = 200, 66
"""Of an activation, forward and backward, per neuron and example."""
DEVICES = (8, 64, 512)


class Counts(NamedTuple):
    """Of one device and one step.

    Attributes:
        flops: multiplications and additions.
        gradient_bytes: sent for the sum of the gradients.
        activation_bytes: sent for layers that are shared.
        state_bytes: held.
    """

    flops: float
    gradient_bytes: float
    activation_bytes: float
    state_bytes: int


def weights(widths: Sequence[int]) -> int:
    """Kernels and biases of an MLP, its widths from the inputs to the outputs."""
    return sum((m + 1) * n for m, n in itertools.pairwise(widths))


def summed(widths: Sequence[int], selective: bool) -> int:
    """Numbers that data-parallel devices sum in a step."""
    return weights(widths) + selective * SUMS * sum(widths[1:-1])


def count(
    widths: Sequence[int], batch: int, devices: int, model_axis: int = 1, selective: bool = True
) -> Counts:
    """Bytes and FLOPs of one device in one step, under the assumptions above.

    Args:
        widths: from the inputs to the outputs.
        batch: b, the examples of one place.
        devices: D.
        model_axis: M; all hidden widths are shared by so many.
        selective: phase 1; otherwise phase 2.
    """
    hidden, pairs = widths[1:-1], list(itertools.pairwise(widths))
    dense = sum(6 * m * n for m, n in pairs) - 2 * pairs[0][0] * pairs[0][1]
    activation = (SELECTIVE_FLOPS if selective else FIXED_FLOPS) * sum(hidden)
    places, share = devices // model_axis, (model_axis - 1) / model_axis
    logits = selective * FUNCTIONS * sum(hidden)
    return Counts(
        flops=batch * (dense + activation) / model_axis,
        gradient_bytes=4 * 2 * (places - 1) / places * summed(widths, selective) / model_axis,
        activation_bytes=4 * batch * share * (3 * sum(hidden[:-1]) + 2 * widths[-1]),
        state_bytes=5 * 4 * (weights(widths) + logits) // model_axis,
    )


def table(widths: Sequence[int], batch: int, model_axis: int, rates: Sequence[float]) -> str:
    """Markdown, a row for each number of devices and each phase.

    Args:
        widths, batch, model_axis: as for `count`.
        rates: FLOP/s, B/s and seconds of a pass of a ring.
    """
    flops, bandwidth, latency = rates
    lines = [
        f"MLP {'-'.join(map(str, widths))}, {weights(widths):,} weights, "
        f"{FUNCTIONS * sum(widths[1:-1]):,} logits; b = {batch}, M = {model_axis}",
        "",
        "| phase | D | batch | MFLOP | sent for gradients, MB | for layers, MB | held, MB | "
        "computing, ms | sending, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for selective, devices in itertools.product((True, False), DEVICES):
        places, shared = devices // model_axis, 3 * (len(widths) - 3) + 2
        passes = 2 * (places - 1) + shared * (model_axis - 1)
        counts = count(widths, batch, devices, model_axis, selective)
        sent = counts.gradient_bytes + counts.activation_bytes
        cells = [
            "1" if selective else "2",
            devices,
            batch * places,
            f"{counts.flops / 1e6:.0f}",
            f"{counts.gradient_bytes / 1e6:.2f}",
            f"{counts.activation_bytes / 1e6:.2f}",
            f"{counts.state_bytes / 1e6:.1f}",
            f"{1e3 * counts.flops / flops:.3f}",
            f"{1e3 * (sent / bandwidth + passes * latency):.3f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Prints the table; returns the exit status."""
    parser = Parser(prog="python -m experiments.benchmarks.scaling")
    parser.add_argument("--inputs", type=int, default=784)
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 256, 128, 64])
    parser.add_argument("--outputs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128, help="examples of one place")
    parser.add_argument("--model-axis", type=int, default=1)
    parser.add_argument("--flops", type=float, default=5e13, help="FLOP/s of a device")
    parser.add_argument("--bandwidth", type=float, default=5e10, help="B/s that a device sends")
    parser.add_argument("--latency", type=float, default=1e-5, help="seconds of a ring's pass")

    def work() -> int:
        options = parser.parse_args(arguments)
        shared = [options.model_axis, *options.hidden, min(DEVICES)]
        if options.model_axis < 1 or any(number % options.model_axis for number in shared):
            raise ValueError(
                f"model_axis = {options.model_axis}: expected a divisor of the hidden widths and "
                f"of {min(DEVICES)}"
            )
        widths = [options.inputs, *options.hidden, options.outputs]
        rates = options.flops, options.bandwidth, options.latency
        print(table(widths, options.batch, options.model_axis, rates))
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The two layers of SmartMixed in PyTorch, written as the published code writes them.

The only module that imports torch. Phase 1 evaluates, clamps and stacks all functions and sums
them with the one-hot weights; phase 2 computes column group by column group.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from experiments.benchmarks.networks import LEARNING_RATE
from smartmixed_jax import PAPER_POOL

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
}
POOL = [FUNCTIONS[name] for name in PAPER_POOL.names]


class Selective(torch.nn.Module):
    """Phase 1 of N neurons: x [B, N] → [B, N]; `noisy = False` leaves out the Gumbel noise."""

    def __init__(self, logits: np.ndarray, temperature: float, limit: float) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))
        self.temperature, self.limit, self.noisy = temperature, limit, True

    def forward(self, x: Any) -> Any:
        perturbed = self.logits
        if self.noisy:
            uniform = torch.rand_like(self.logits)
            perturbed = perturbed - torch.log(-torch.log(uniform + 1e-20) + 1e-20)
        soft = F.softmax(perturbed / self.temperature, -1)
        hard = F.one_hot(soft.argmax(-1), len(POOL)).to(soft.dtype)
        weights = hard - soft.detach() + soft
        candidates = [torch.clamp(f(x), -self.limit, self.limit) for f in POOL]
        mixture = (torch.stack(candidates, -1) * weights).sum(-1)
        return torch.clamp(mixture, -self.limit, self.limit)


class Mixed(torch.nn.Module):
    """Phase 2: x [B, N] → [B, N], the function of each neuron fixed."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        groups = {name: np.flatnonzero(np.asarray(names) == name) for name in FUNCTIONS}
        self.functions = [FUNCTIONS[name] for name in groups]
        for name, columns in groups.items():
            self.register_buffer(name, torch.tensor(columns))

    def forward(self, x: Any) -> Any:
        y = torch.zeros_like(x)
        for function, columns in zip(self.functions, self.buffers(), strict=True):
            if len(columns):
                y[:, columns] = function(x[:, columns])
        return y


def build(weights: Sequence[dict[str, np.ndarray]], activations: Sequence[Any]) -> Any:
    """The network with the given kernels [in, out] and biases [out]."""
    layers = []
    for layer in weights:
        linear = torch.nn.Linear(*layer["kernel"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(layer["kernel"].T))
            linear.bias.copy_(torch.tensor(layer["bias"]))
        layers.append(linear)
    *hidden, last = layers
    pairs = zip(hidden, activations, strict=True)
    return torch.nn.Sequential(*itertools.chain.from_iterable(pairs), last)


def loss_and_gradients(
    model: Any, images: np.ndarray, labels: np.ndarray, *, compiled: bool
) -> list[np.ndarray]:
    """The mean cross-entropy; gradients to bias and kernel per layer, then to the logits."""
    device = next(model.parameters()).device
    for layer in model:
        layer.noisy = False
    forward = torch.compile(model) if compiled else model
    loss = F.cross_entropy(forward(torch.tensor(images, device=device)), _labels(labels, device))
    model.zero_grad()
    loss.backward()
    result = [loss.detach()]
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            result += [layer.bias.grad, layer.weight.grad.T]
    result += [layer.logits.grad for layer in model if isinstance(layer, Selective)]
    for layer in model:
        layer.noisy = True
    return [array.cpu().numpy() for array in result]


def _labels(labels: np.ndarray, device: Any) -> Any:
    return torch.tensor(labels, dtype=torch.int64, device=device)


def make_variant(
    model: Any, batches: Sequence[tuple[np.ndarray, np.ndarray]], clip: float, *, compiled: bool
) -> Callable[[int], Any]:
    """Call i takes one step on each batch of entry i: images [S, B, in] and labels [S, B].

    The loop is the published one; `compiled` passes the network through torch.compile.
    """
    device = next(model.parameters()).device
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    held = [(torch.tensor(x, device=device), _labels(y, device)) for x, y in batches]

    def variant(i: int) -> float:
        total = 0.0
        for images, labels in zip(*held[i % len(held)], strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(images), labels)
            if torch.isnan(loss):
                break
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            total += loss.item()  # waits for the device in every step, as the published loop does
        return total

    return variant


def configure(cpus: int, gpu: bool) -> tuple[str, str]:
    """Threads and matrix precision as JAX has them; returns the version and the device."""
    torch.set_num_threads(cpus)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU: JAX's default there
    torch.manual_seed(0)
    return torch.__version__, "cuda" if gpu and torch.cuda.is_available() else "cpu"

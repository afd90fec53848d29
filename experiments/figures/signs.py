"""A sign per function: what tells the cells of a choice map apart where colours do not."""

import itertools
from collections.abc import Sequence

import numpy as np

SIZE = 5
"""A sign is [SIZE, SIZE] pixels, some of them on."""

FUNCTION_SIGNS = {
    "relu": "....# ....# ....# ....# #####",
    "sigmoid": "....# ..### ##### ..### ....#",
    "tanh": "#...# .#.#. ..#.. .#.#. #...#",
    "leaky_relu": "#.... #.... ##### #.... #....",
    "elu": "##... ..##. ....# ..##. ##...",
    "selu": "...## .##.. #.... .##.. ...##",
    "gelu": "##### ..#.. ..#.. ..#.. ..#..",
    "silu": "..#.. ..#.. .###. .###. #####",
    "softplus": ".#.#. .#.#. .#.#. .#.#. .#.#.",
    "mish": "##... ###.. .###. ..### ...##",
    "identity": "...## ..### .###. ###.. ##...",
    "zero": "..... ..... ..... ..... .....",
    "sin": "..... ##### ..... ##### .....",
    "square": "#...# #...# .#.#. .#.#. ..#..",
    "gauss": "..#.. .#.#. .#.#. #...# #...#",
    "squared_relu": "##### ..... #...# .###. #...#",
}
"""Any two of them, or one and the other's negative, differ in at least 9 of the 25 pixels: a cell
shows its sign dark on a light colour or light on a dark one."""

OTHER_SIGNS = (
    "..#.. .#.#. #...# .#.#. ..#..",
    "..#.. ..#.. ##### ..#.. ..#..",
    "##### #.... #.... #.... #....",
    "#.... ##... ###.. ####. #####",
    "..... ..#.. .###. ##### .....",
)
"""For functions without a sign of their own, in at least 7 pixels different from all others; after
them come the signs that the pool leaves."""


def function_signs(names: Sequence[str]) -> dict[str, np.ndarray]:
    """The sign of every function of a pool, bool [SIZE, SIZE], all different up to 21 functions."""
    unused = (sign for name, sign in FUNCTION_SIGNS.items() if name not in names)
    others = itertools.cycle((*OTHER_SIGNS, *unused))
    return {name: _parse(FUNCTION_SIGNS.get(name) or next(others)) for name in names}


def _parse(sign: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in sign.split()])

"""The pools of functions that a run may choose from, by name; a new one needs an entry here."""

import functools

from experiments.importing import load_object
from smartmixed_jax import (
    EXTENDED_POOL,
    MODERN_POOL,
    PAPER_POOL,
    REGRESSION_POOL,
    SMOOTH_POOL,
    ActivationPool,
)

POOLS: dict[str, ActivationPool] = {
    "paper": PAPER_POOL,
    "regression": REGRESSION_POOL,
    "extended": EXTENDED_POOL,
    "modern": MODERN_POOL,
    "smooth": SMOOTH_POOL,
    # Derivatives up to the third are cheapest one function at a time.
    "equations": SMOOTH_POOL.subset("sin", "tanh", "gelu", "gauss").with_form("general"),
}


@functools.cache
def find_pool(text: str) -> ActivationPool:
    """A pool by its name, by the names of functions, or one of the user's.

    Args:
        text: a key of `POOLS`; names of their functions, separated by commas; or MODULE:NAME.
    """
    if text in POOLS:
        return POOLS[text]
    if ":" in text:
        pool = load_object("pool", text)
        if not isinstance(pool, ActivationPool):
            raise ValueError(f"pool = {text!r} is a {type(pool).__name__}, expected ActivationPool")
        return pool
    known = {
        name: function
        for pool in POOLS.values()
        for name, function in zip(pool.names, pool.functions, strict=True)
    }
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"pool = {text!r}: no function {unknown[0]!r}; known: {', '.join(known)}; or a pool: "
            f"{', '.join(POOLS)}, MODULE:NAME"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"pool = {text!r}: expected each function once")
    return ActivationPool((name, known[name]) for name in names)

"""FunctionTable: the static per-neuron table of a fixed layer."""

import dataclasses
import json
from typing import Any

import numpy as np

from smartmixed_jax import _checks
from smartmixed_jax.pools import ActivationPool
from smartmixed_jax.types import Integers


@dataclasses.dataclass(frozen=True, repr=False)
class FunctionTable:
    """A pool and, for each of N neurons, the index of its function; hashable, immutable.

    Tables with equal pools and choices are equal, so a table can be a static argument of
    `jax.jit` and a static attribute of a module.

    Args:
        pool: K functions.
        choices: [N] ints in [0, K).

    Raises:
        ValueError: a choice is outside [0, K).
        TypeError: pool is no ActivationPool; choices are traced or no integers.

    Example:
        >>> from smartmixed_jax import PAPER_POOL, FunctionTable
        >>> table = FunctionTable(PAPER_POOL, [2, 0, 2])
        >>> table.names, table.counts()["tanh"]
        (('tanh', 'relu', 'tanh'), 2)
        >>> FunctionTable.from_json(table.to_json(), PAPER_POOL) == table
        True
    """

    pool: ActivationPool
    choices: tuple[int, ...]

    def __init__(self, pool: ActivationPool, choices: Integers) -> None:
        _checks.check("FunctionTable", pool=pool)
        object.__setattr__(self, "pool", pool)
        indices = _checks.check_choices("FunctionTable", choices, pool)
        object.__setattr__(self, "choices", tuple(indices.tolist()))

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each neuron's function, [N]."""
        return tuple(self.pool.names[choice] for choice in self.choices)

    def counts(self) -> dict[str, int]:
        """How many neurons hold each function: K names → counts that sum to N."""
        counts = np.bincount(np.asarray(self.choices, np.int64), minlength=len(self.pool))
        return dict(zip(self.pool.names, counts.tolist(), strict=True))

    def to_json(self) -> str:
        """The names of the pool and the choices as JSON; the functions themselves stay in code."""
        return json.dumps({"pool": list(self.pool.names), "choices": list(self.choices)})

    @classmethod
    def from_json(cls, text: str, pool: ActivationPool) -> "FunctionTable":
        """The table that `to_json` wrote.

        Raises:
            TypeError: text is no str, or pool no ActivationPool.
            ValueError: the text is no table, or it was written for a pool of other names.
        """
        _checks.check("FunctionTable.from_json", text=text, pool=pool)
        try:
            record = json.loads(text, object_pairs_hook=_without_duplicates)
            names, choices = record["pool"], record["choices"]
            lists = isinstance(names, list) and isinstance(choices, list)
            if not lists or any(type(choice) is not int for choice in choices):
                raise ValueError("pool and choices must be lists, of names and of integers")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            got = f"{_checks.shown(text)} ({error})"
            raise ValueError(f"FunctionTable.from_json: no function table: {got}") from error
        if tuple(names) != pool.names:
            got = f"the pool {names}, got {list(pool.names)}"
            raise ValueError(f"FunctionTable.from_json: the table was written for {got}")
        return cls(pool, choices)

    def __len__(self) -> int:
        return len(self.choices)

    def __repr__(self) -> str:
        used = ", ".join(f"{name} {count}" for name, count in self.counts().items() if count)
        return f"FunctionTable({len(self)} neurons: {used})"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"a name appears twice among {[name for name, _ in pairs]}")
    return record


_checks.KINDS.update(table=("a FunctionTable", lambda value: isinstance(value, FunctionTable)))

"""FunctionTable: the static per-neuron table of a fixed layer."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from smartmixed_jax._checks import check_choices
from smartmixed_jax.pools import ActivationPool


class FunctionTable:
    """A pool and, for each of N neurons, the index of its function; hashable, immutable.

    Tables with equal pools and choices are equal, so a table can be a static argument of
    `jax.jit` and a static attribute of a module.

    Args:
        pool: K functions.
        choices: [N] ints in [0, K).

    Raises:
        ValueError: a choice is outside [0, K).
        TypeError: choices are traced or no integers.

    Example:
        >>> from smartmixed_jax import PAPER_POOL, FunctionTable
        >>> table = FunctionTable(PAPER_POOL, [2, 0, 2])
        >>> table.names, table.counts()["tanh"]
        (('tanh', 'relu', 'tanh'), 2)
        >>> FunctionTable.from_json(table.to_json(), PAPER_POOL) == table
        True
    """

    def __init__(
        self, pool: ActivationPool, choices: Sequence[int] | np.ndarray | jax.Array
    ) -> None:
        self.pool = pool
        self.choices: tuple[int, ...] = tuple(
            check_choices("FunctionTable", choices, pool).tolist()
        )
        self._hash = hash((self.pool, self.choices))

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
            ValueError: the text is no table, or it was written for a pool of other names.
        """
        try:
            record = json.loads(text)
            names, choices = tuple(record["pool"]), record["choices"]
            if not isinstance(choices, list) or not all(type(choice) is int for choice in choices):
                raise ValueError("choices must be a list of integers")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"FunctionTable.from_json: no function table: {text[:60]!r}"
            ) from error
        if names != pool.names:
            raise ValueError(
                f"FunctionTable.from_json: the table was written for the pool {list(names)}, "
                f"got {list(pool.names)}"
            )
        return cls(pool, choices)

    def __len__(self) -> int:
        return len(self.choices)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FunctionTable)
            and self.pool == other.pool
            and self.choices == other.choices
        )

    def __hash__(self) -> int:
        return self._hash

    def __deepcopy__(self, memo: dict[int, Any]) -> "FunctionTable":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionTable, (self.pool, self.choices)

    def __repr__(self) -> str:
        used = ", ".join(f"{name} {count}" for name, count in self.counts().items() if count)
        return f"FunctionTable({len(self)} neurons: {used})"

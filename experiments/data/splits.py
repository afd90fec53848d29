"""Splits of examples."""

import numpy as np


def stratified_split(
    labels: np.ndarray, fraction: float = 0.1, seed: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples so that both parts keep the share of every class.

    Args:
      labels: integers [M]; every class at least twice.
      fraction: of the examples that go to validation, in (0, 1).

    Returns:
      (train_indices, validation_indices): int32, sorted, together 0 .. M - 1.

    Raises:
      ValueError: fraction outside (0, 1), or too few examples of a class.
    """
    from sklearn.model_selection import train_test_split

    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    indices = np.arange(len(labels), dtype=np.int32)
    train, validation = train_test_split(
        indices, test_size=float(fraction), random_state=seed, stratify=labels
    )
    return np.sort(train), np.sort(validation)

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


def split_rows(
    groups: np.ndarray, validation: float, test: float, seed: int, least: int = 1
) -> dict[str, np.ndarray]:
    """Draws the rows for training, validation and test, each group's in the same shares.

    Args:
      groups: integers [M], such as classes; zeros split all rows alike.
      validation, test: shares of the rows.
      seed: of the draw.
      least: rows of a group that each part has at least.

    Returns:
      `train`, `validation` and `test`: sorted indices, together 0 .. M - 1. Their sizes depend on
      the sizes of the groups only.

    Raises:
      ValueError: a group has fewer than 3·least rows, or the shares leave none for training.
    """
    rng = np.random.default_rng([seed, 0x5B117])
    parts: dict[str, list[np.ndarray]] = {"test": [], "validation": [], "train": []}
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        counts = [max(least, round(share * len(rows))) for share in (test, validation)]
        if len(rows) - sum(counts) < least:
            raise ValueError(f"{len(rows)} rows are too few")
        pieces = np.split(rows, np.cumsum(counts))
        for part, piece in zip(parts.values(), pieces, strict=True):
            part.append(piece)
    return {name: np.sort(np.concatenate(pieces)) for name, pieces in sorted(parts.items())}

"""An image as a function: from the place of a pixel to its intensities.

Of the package scikit-image by name, or a file of the user's. Every second pixel, as the squares of
one colour of a checkerboard, is for training; the others are for the test.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from experiments.data.functions import Fitted
from experiments.data.reading import find_file
from experiments.data.sources import DataError, describe_error

NAMES = ("astronaut", "camera")
"""Images of scikit-image, in colour and in grey."""
LONGEST = 256
"""Pixels of the longer side; larger images are averaged down to it."""


class Pixels(NamedTuple):
    """inputs [M, 2], x to the right and y down, and values [M, C] in [0, 1], float32."""

    inputs: np.ndarray
    values: np.ndarray


def load_image(name: str, data_dir: str | None) -> tuple[np.ndarray, str]:
    """An image by its name or from a file, averaged down to `LONGEST` pixels a side.

    Returns:
        Intensities in [0, 1], float32 [H, W, C], C 1 or 3; and where they came from.

    Raises:
        DataError: there is no such image, its file cannot be read, or it is too small.
    """
    if name in NAMES:
        image, source = _packaged(name), f"{name} of scikit-image"
    else:
        try:
            path = find_file(name, data_dir)
        except DataError as error:
            raise DataError(f"image:{name}: {error}; known by name: {', '.join(NAMES)}") from None
        image, source = _read(path), f"image {path}"
    image = shrink(image)
    if min(image.shape[:2]) < 2:
        height, width, _ = image.shape
        raise DataError(f"image:{name}: {height} x {width} pixels, expected at least 2 x 2")
    return image, source


def _packaged(name: str) -> np.ndarray:
    try:
        from skimage import data
    except ImportError as error:
        raise DataError(
            f"image:{name} needs scikit-image ({error}): pip install scikit-image"
        ) from error
    return _as_intensities(getattr(data, name)())


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            grey = picture.mode in ("1", "L", "LA") or picture.mode.startswith("I;16")
            if not picture.mode.startswith("I;16"):
                picture = picture.convert("L" if grey else "RGB")
            return _as_intensities(np.asarray(picture))
    except Exception as error:  # whatever a damaged file makes of the readers
        raise DataError(
            f"{path} cannot be read as an image, such as a PNG ({describe_error(error)})"
        ) from error


def _as_intensities(image: np.ndarray) -> np.ndarray:
    """Unsigned integers [H, W] or [H, W, C] → float32 [H, W, C] in [0, 1]."""
    scaled = image.astype(np.float32) / np.iinfo(image.dtype).max
    return scaled if image.ndim == 3 else scaled[..., None]


def shrink(image: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """An image [H, W, C] whose longer side has at most so many pixels, each a mean of what it
    covers."""
    height, width, _ = image.shape
    if max(height, width) <= longest:
        return image
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    planes = [Image.fromarray(plane).resize(size, Image.Resampling.BOX) for plane in _planes(image)]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def _planes(image: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(image[..., channel]) for channel in range(image.shape[-1])]


def coordinates(height: int, width: int, bounds: tuple[float, float]) -> np.ndarray:
    """The middle of every pixel, float32 [H, W, 2]: x to the right and y down.

    The longer side reaches from one bound to the other, edge to edge; pixels are square.
    """
    low, high = bounds
    pitch, middle = (high - low) / max(height, width), (low + high) / 2
    x, y = (middle + pitch * (np.arange(n) - (n - 1) / 2) for n in (width, height))
    return np.stack(np.meshgrid(x, y), -1).astype(np.float32)


def split(
    image: np.ndarray, bounds: tuple[float, float], validation_fraction: float
) -> dict[str, Pixels]:
    """The pixels for `train`, `validation` and `test`, the same for every seed of a run.

    Args:
        image: [H, W, C].
        bounds: as of `coordinates`.
        validation_fraction: of the pixels of one colour of the checkerboard, at random; the rest of
            them is for training, the other colour for the test.
    """
    height, width, channels = image.shape
    row, column = np.indices((height, width))
    is_test = ((row + column) % 2 == 1).reshape(-1)
    ours = np.random.default_rng(0x1A6E).permutation(np.flatnonzero(~is_test))
    held_out = min(max(1, round(validation_fraction * len(ours))), len(ours) - 1)
    places = {
        "train": np.sort(ours[held_out:]),
        "validation": np.sort(ours[:held_out]),
        "test": np.flatnonzero(is_test),
    }
    inputs = coordinates(height, width, bounds).reshape(-1, 2)
    values = image.reshape(-1, channels)
    return {part: Pixels(inputs[of_part], values[of_part]) for part, of_part in places.items()}


def tabulate_fit(
    image: np.ndarray, bounds: tuple[float, float], fitted: Fitted
) -> dict[str, np.ndarray]:
    """`image_true` and `image_fit`, [H, W, C]."""
    height, width, _ = image.shape
    inputs = coordinates(height, width, bounds).reshape(-1, 2)
    return {"image_true": image, "image_fit": np.asarray(fitted(inputs)).reshape(image.shape)}

"""The image sets: what is known of each before any byte is read, and the arrays in memory."""

import dataclasses
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from experiments.data.sources import DataError

ARRAYS = ("train_inputs", "train_labels", "test_inputs", "test_labels")
"""The four arrays of a set, in the order in which every reader returns them."""

KERAS_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""The same, as the NPZ files of Keras call them."""


def pick_arrays(arrays: Mapping[str, np.ndarray], path: object) -> list[np.ndarray]:
    """The four arrays of a set in the order of `ARRAYS`; DataError if they are not there."""
    if set(ARRAYS) <= arrays.keys():
        return [arrays[name] for name in ARRAYS]
    if set(KERAS_ARRAYS) <= arrays.keys():
        return as_images([arrays[name] for name in KERAS_ARRAYS])
    raise DataError(
        f"{path}: expected the arrays {', '.join(ARRAYS)}, or {', '.join(KERAS_ARRAYS)}; "
        f"found {', '.join(arrays) or 'none'}"
    )


def as_images(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The four arrays, images [M, H, W] with a channel, labels [M, 1] without their axis."""
    images = [array[..., None] if array.ndim == 3 else array for array in arrays[::2]]
    labels = [array[:, 0] if array.shape[1:] == (1,) else array for array in arrays[1::2]]
    return [images[0], labels[0], images[1], labels[1]]


_IDX_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
_IDX_FILES += ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
_CIFAR_FILES = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)]
_CIFAR_FILES += ["cifar-10-batches-bin/test_batch.bin"]


def _parse_idx(files: Mapping[str, bytes]) -> list[np.ndarray]:
    """MNIST's IDX format: bytes 0, 0, 8 (uint8), rank; the shape, big-endian; the values."""
    arrays = []
    for (name, blob), rank in zip(files.items(), (3, 1, 3, 1), strict=True):
        start = 4 + 4 * rank
        if blob[:4] != bytes((0, 0, 8, rank)) or len(blob) < start:
            raise ValueError(f"{name} is no IDX file of rank {rank}, starts with {blob[:4].hex()}")
        shape = struct.unpack(f">{rank}I", blob[4:start])
        if len(blob) - start != math.prod(shape):
            raise ValueError(f"{name} has {len(blob) - start} values, its header says {shape}")
        values = np.frombuffer(blob, np.uint8, offset=start)
        arrays.append(values.reshape(*shape, 1) if rank == 3 else values)
    return arrays


def _parse_cifar10(files: Mapping[str, bytes]) -> list[np.ndarray]:
    """CIFAR's binary format: per image one label byte, then 3 x 32 x 32 pixels, channels first."""
    for name, blob in files.items():
        if len(blob) % 3073:
            raise ValueError(f"{name} has {len(blob)} bytes, not a multiple of 3073")
    *train, test = (np.frombuffer(blob, np.uint8).reshape(-1, 3073) for blob in files.values())
    arrays = []
    for rows in (np.concatenate(train), test):
        arrays += [rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]]
    return arrays


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a data set before any of it is read.

    Attributes:
      shape: of one input, (H, W, C).
      counts: training and test examples as published; a TFDS folder may hold fewer and say so.
      class_names: in the order of the labels, separated by commas.
      url: the folder on the web that holds the packed files; empty for a bundled set.
      packed: file name -> (sha256, bytes), both as in tensorflow_datasets/url_checksums.
      plain: the unpacked file names, in the order `parse` expects -> sha256 or, not known, None.
      parse: unpacked files -> arrays in the order of `ARRAYS`; ValueError if malformed.
    """

    shape: tuple[int, int, int]
    counts: tuple[int, int]
    class_names: str
    scale: float = 255.0
    url: str = ""
    packed: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    plain: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    parse: Callable[[Mapping[str, bytes]], list[np.ndarray]] = _parse_idx


def _table(names: Iterable[str], lines: str) -> dict[str, tuple[str, int]]:
    """Lines of `sha256 bytes`, one per name."""
    words = lines.split()
    rows = zip(words[::2], map(int, words[1::2]), strict=True)
    return dict(zip(names, rows, strict=True))


_GZ_FILES = [f"{name}.gz" for name in _IDX_FILES]
# Of MNIST's unpacked files: only this tells them from Fashion-MNIST's, alike in name and size.
_MNIST_SHA256 = """
    ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db
    65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5
    0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7
    ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"""

DATASETS: Mapping[str, Facts] = {
    "mnist": Facts(
        shape=(28, 28, 1),
        counts=(60_000, 10_000),
        class_names="0,1,2,3,4,5,6,7,8,9",
        url="https://storage.googleapis.com/cvdf-datasets/mnist/",
        packed=_table(
            _GZ_FILES,
            """440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 9912422
            3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c 28881
            8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 1648877
            f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 4542""",
        ),
        plain=dict(zip(_IDX_FILES, _MNIST_SHA256.split(), strict=True)),
    ),
    "fashion_mnist": Facts(
        shape=(28, 28, 1),
        counts=(60_000, 10_000),
        class_names="T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # the sha256 protects it
        packed=_table(
            _GZ_FILES,
            """3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 26421880
            a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 29515
            346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 4422102
            67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 5148""",
        ),
        plain=dict.fromkeys(_IDX_FILES),
    ),
    "cifar10": Facts(
        shape=(32, 32, 3),
        counts=(50_000, 10_000),
        class_names="airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck",
        url="https://www.cs.toronto.edu/~kriz/",
        packed=_table(
            ["cifar-10-binary.tar.gz"],
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd 170052171",
        ),
        plain=dict.fromkeys(_CIFAR_FILES),
        parse=_parse_cifar10,
    ),
    "digits": Facts((8, 8, 1), (1_437, 360), "0,1,2,3,4,5,6,7,8,9", scale=16.0),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled image set in memory, split as it was published.

    Attributes:
      train_inputs, test_inputs: uint8 [M, H, W, C], values in [0, scale]; of the user's own
        arrays float32 too.
      train_labels, test_labels: int32 [M], values in [0, len(class_names)).
      scale: the input value that maps to 1.0.
      source: one line, where these arrays came from.
    """

    name: str
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    scale: float
    source: str


def checked(name: str, arrays: Sequence[np.ndarray], source: str, where: str = "") -> Dataset:
    """Checks `arrays` (in the order of `ARRAYS`) against the facts; DataError where they differ."""
    facts = DATASETS[name]
    names = tuple(facts.class_names.split(","))
    where = f"of {name} from {where or source}"
    for inputs, labels in (arrays[:2], arrays[2:]):
        if inputs.dtype != np.uint8 or inputs.shape[1:] != facts.shape or not len(inputs):
            raise DataError(
                f"inputs {where} are {inputs.dtype} {list(inputs.shape)}, "
                f"expected uint8 {['M', *facts.shape]}"
            )
        if labels.dtype.kind not in "iu" or labels.shape != inputs.shape[:1]:
            raise DataError(
                f"labels {where} are {labels.dtype} {list(labels.shape)}, "
                f"expected integers [{len(inputs)}]"
            )
        limits = (("inputs", inputs, int(facts.scale)), ("labels", labels, len(names) - 1))
        for what, values, top in limits:
            if values.min() < 0 or values.max() > top:
                raise DataError(
                    f"{what} {where} lie in [{values.min()}, {values.max()}], expected [0, {top}]"
                )
    dtypes = (np.uint8, np.int32, np.uint8, np.int32)
    fields = {
        key: np.ascontiguousarray(array, dtype)
        for key, array, dtype in zip(ARRAYS, arrays, dtypes, strict=True)
    }
    return Dataset(name=name, **fields, class_names=names, scale=facts.scale, source=source)

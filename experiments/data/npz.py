"""NPZ files whose headers are checked: np.load allocates whatever size a header claims."""

import math
import os
import zipfile

import numpy as np

from experiments.machine import as_gib, host_memory

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every array of an NPZ file by its name, no pickled object among them.

    Raises:
        Exception: of a dozen unrelated types, for a file that is damaged, claims more than it
            holds, or holds more than the memory.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        size, memory = sum(member.file_size for member in members), host_memory()
        if size > memory:
            raise ValueError(f"its arrays take {as_gib(size)}, this machine has {as_gib(memory)}")
        return {
            member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members
        }


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} has the format {version}, expected 1.0 or 2.0")
        shape, _, dtype = _HEADERS[version](file)
        claimed, held = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
    if claimed != held and not dtype.hasobject:  # read_array refuses objects
        raise ValueError(f"{member.filename} has {held} bytes, its header says {claimed}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)

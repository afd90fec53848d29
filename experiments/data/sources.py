"""Where files of data are looked for, and how they are fetched and verified."""

import logging
import os
import re
import tempfile
import threading
import urllib.parse
from pathlib import Path

from experiments.typed_json import parse_json

LOG = logging.getLogger(__name__)
PROBE_SECONDS = 3.5  # with the imports, an offline run ends within 5 s
TIMEOUTS = (4.0, 15.0)  # connect, read: a server that stalls ends the download


class DataError(RuntimeError):
    """The data cannot be had; one line says what was looked for, where, and what to do."""


def describe_error(error: object) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def local_path(text: str | os.PathLike[str]) -> Path:
    """A path of this machine, ~ expanded; DataError if it is an address, or ~ has no folder."""
    if "://" in str(text):
        raise DataError(f"{text}: expected a path of this machine, not an address")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"{text}: {error}; set HOME, or give a whole path") from None


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where data are looked for: the argument, or TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return local_path(given).absolute()


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Where downloads and decoded arrays are kept; `load` says where that is."""
    if given := cache_dir or os.environ.get("SMARTMIXED_CACHE"):
        return local_path(given).absolute()
    return local_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").absolute() / "smartmixed-jax"


def find_prepared(root: Path) -> list[Path] | None:
    """The files of the newest `<root>/<version>` in array_record format, without importing TFDS."""
    infos = {
        tuple(map(int, path.parent.name.split("."))): path
        for path in root.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # not `3.0.1.incompleteXYZ`
    }
    for _, path in sorted(infos.items(), reverse=True):
        try:
            file_format = parse_json(path.read_text()).get("fileFormat", "tfrecord")
        except (ValueError, AttributeError) as error:
            raise DataError(
                f"{path} is damaged ({describe_error(error)}); copy it again"
            ) from error
        if file_format == "array_record":
            return sorted(path.parent.iterdir())
        LOG.warning(
            "%s skipped: %s, only array_record is read without TensorFlow", path.parent, file_format
        )
    return None


def writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def unreachable(url: str) -> str | None:
    """Why the host of `url` does not answer, or None if it does, within PROBE_SECONDS."""
    import requests

    answers: list[str | None] = []

    def probe() -> None:
        try:
            requests.head(url, timeout=PROBE_SECONDS)
            answers.append(None)  # any status will do: what is asked is the way to the host
        except Exception as error:  # in a thread nobody else would report it
            answers.append(type(error).__name__)

    # A look-up of the host name ignores every timeout: leave it behind in a daemon thread.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    reason = answers[0] if answers else f"no answer in {PROBE_SECONDS:g} s"
    return reason and f"{urllib.parse.urlsplit(url).hostname}: {reason}"


def fetch(name: str, url: str, sha256: str, folder: Path) -> Path:
    """Downloads a file into `folder`; pooch deletes what does not match its sha256."""
    import pooch

    file = url.rpartition("/")[2]
    downloader = pooch.HTTPDownloader(timeout=TIMEOUTS, chunk_size=1 << 20)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", file, folder, downloader=downloader)
    except (ValueError, OSError) as error:
        if (response := getattr(error, "response", None)) is not None:
            response.close()  # pooch leaves the socket of a 404 open
        raise DataError(f"{name}: download of {url} failed ({describe_error(error)})") from error
    return folder / file

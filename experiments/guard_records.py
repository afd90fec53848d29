"""What a run left, whatever program it was of: numbers exactly as written, arrays, checkpoints."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

UNRECORDED = ("seconds", "environment", "date", "data_dir", "run_dir", "files", "sha256", "rows")
"""Keys in JSON files whose values differ from run to run."""

SHORTEST_SHARED = 60
"""Characters of an object that a record file writes once."""

Run = dict[str, Any]
"""What a run left: its files by name, nested as they are; arrays, numbers and texts."""


def saved_epochs(folder: Path) -> list[int]:
    """The epochs after which there is a checkpoint."""
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def read_run(folder: Path, places: Mapping[str, Path], *, last_checkpoints: int = 0) -> Run:
    """All JSON and arrays of a run folder, and its checkpoints, or so many of the last."""
    run: Run = {}
    for path in sorted(folder.glob("*.json")):
        run[path.stem] = json.loads(path.read_text())
    for path in sorted(folder.glob("*.jsonl")):
        run[path.stem] = [json.loads(line) for line in path.read_text().splitlines()]
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            run[path.stem] = dict(file)
    run["checkpoints"] = {
        str(n): _checkpoint(folder / f"checkpoints/{n}")
        for n in saved_epochs(folder)[-last_checkpoints:]
    }

    def recorded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: recorded(own) for key, own in value.items() if key not in UNRECORDED}
        if isinstance(value, list):
            return [recorded(own) for own in value]
        for name, place in places.items() if isinstance(value, str) else ():
            value = value.replace(str(place), name)
        return value

    return recorded(run)


def _checkpoint(folder: Path) -> dict[str, Any]:
    """The items of an Orbax checkpoint, JSON or a tree of arrays, whatever its structure."""
    import jax
    import orbax.checkpoint as ocp

    items: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if (path / "_METADATA").exists():
            handler, items[path.name] = ocp.PyTreeCheckpointHandler(), {}
            leaves = handler.metadata(path).tree
            to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
            tree = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=to_numpy))
            for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
                *parents, last = jax.tree_util.keystr(keys, simple=True, separator=".").split(".")
                inner = items[path.name]
                for parent in parents:
                    inner = inner.setdefault(parent, {})
                inner[last] = np.asarray(leaf)
        elif (path / "metadata").exists():
            items[path.name] = json.loads((path / "metadata").read_text())
    return items


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The values of a run by names such as metrics/0/train_loss; a list of numbers is one value."""
    if isinstance(value, list) and any(isinstance(own, dict | list) for own in value):
        value = {str(number): own for number, own in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {name: value}
    parts = [flat(own, f"{name}/{key}".lstrip("/")) for key, own in value.items()]
    return {key: own for part in parts for key, own in part.items()}


def text_of(value: Any) -> str:
    """A value exactly; an array as dtype[shape] and the first 16 digits of its bytes' SHA-256."""

    def describe(array: np.ndarray) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        return f"{array.dtype}[{','.join(map(str, array.shape))}] {digest}"

    return json.dumps(value, default=describe, separators=(",", ":"))


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """One line per run. An object that occurs again is written once, in `shared`, under a #name."""
    runs = json.loads(text_of(record["runs"]))
    counts: Counter[str] = Counter()
    shared: dict[str, Any] = {}

    def count(value: Any) -> None:
        if isinstance(value, dict):
            counts[text_of(value)] += 1
        for own in value.values() if isinstance(value, dict) else value:
            if isinstance(own, dict | list):
                count(own)

    def packed(value: Any) -> Any:
        if isinstance(value, list):
            return [packed(own) for own in value]
        if not isinstance(value, dict):
            return value
        text, result = text_of(value), {key: packed(own) for key, own in value.items()}
        if counts[text] == 1 or len(text) < SHORTEST_SHARED:
            return result
        name = f"#{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        shared[name] = result
        return name

    count(runs)
    runs = {name: packed(run) for name, run in runs.items()}
    head = text_of({key: own for key, own in record.items() if key != "runs"}).removesuffix("}")
    lines = [
        ",\n".join(f"{text_of(name)}:{text_of(own)}" for name, own in part.items())
        for part in (runs, shared)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{},\n"runs":{{\n{}\n}},\n"shared":{{\n{}\n}}}}\n'.format(head, *lines))


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote, arrays as their texts."""
    record = json.loads(path.read_text())
    shared = record.pop("shared")

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(own) for key, own in value.items()}
        if isinstance(value, list):
            return [whole(own) for own in value]
        return whole(shared[value]) if isinstance(value, str) and value in shared else value

    return {**record, "runs": whole(record["runs"])}

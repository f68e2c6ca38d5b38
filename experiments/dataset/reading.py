"""Rows of a data set, read by `datasets` from local files or from the hub, and where they came from.

Knows files, the hub and what is wrong with them; refuses to know what a row means. Local files need no network.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.optional import need
from mtad.errors import UserError
from mtad.folders import find_folder

READERS = {".jsonl": "json", ".json": "json", ".txt": "text", ".parquet": "parquet"}  # those of `datasets`
ONE_CHUNK = 2**28  # bytes: the fields of a JSON file are those of its first chunk, so it is read as one
SPLITS = (("train", "training"), ("validation", "valid", "val", "dev"), ("test",))  # each with its other names


@dataclass(frozen=True)
class Table:
    """What was read.

    Attributes:
        where: the file, or the data set on the hub, as the user named it.
        origin: the same as JSON data without absolute paths, with a hash of the content.
    """

    rows: Sequence[Mapping[str, Any]]
    where: str
    origin: Mapping[str, Any]


def read(
    id: str | None, subset: str | None, revision: str | None, path: str | None, split: str, hint: str = ""
) -> Table:
    """The rows of a split, read once per process unless its files change. Raises UserError.

    Args:
        hint: where such data is, for a user who names none.
    """
    if path:
        files = tuple(find_files(path, split))
        if any("::" in str(file.absolute()) for file in files):
            raise UserError(f"task.path={path}: rename it; `datasets` takes :: in a path for an archive within another")
        stats = [file.stat() for file in files]
        return _read_files(path, files, split, tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))
    if id:
        return _read_hub(id, subset, revision, split)
    raise UserError(f"this task needs a data set: task.path=FILE or FOLDER, or task.id= of one on the hub{hint}")


def find_files(path: str, split: str) -> list[Path]:
    """The file that a user means by `path`, or the folder's file (or shards) for the split. Raises UserError."""
    found = find_folder(path)
    if not found.is_dir():
        if not found.is_file():
            raise UserError(f"task.path={path}: there is no such file or folder")
        if _suffix(found) not in READERS:
            raise UserError(f"task.path={path}: what kind of file is this? its name should end with {_kinds()}")
        return [found]
    files = sorted(file for file in found.iterdir() if file.is_file() and _suffix(file) in READERS)
    names = next((names for names in SPLITS if split in names), (split,))
    fitting = (
        [file for file in files if _stem(file) in names]
        or [file for file in files if _begins_with(names, file)]
        or [file for file in files if len(files) == 1 and not _begins_with(sum(SPLITS, ()), file)]
    )
    if not fitting:
        there = ", ".join(file.name for file in files[:8]) or "none"
        raise UserError(f"task.path={path}: no file for the split {split!r}; its files of rows: {there}")
    stems = {_stem(file) for file in fitting}
    if len({file.name[len(_stem(file)) :] for file in fitting}) > 1 or len(stems) < len(fitting):
        several = ", ".join(file.name for file in fitting)
        raise UserError(f"task.path={path}: several files for the split {split!r}; name one of them: {several}")
    return fitting


def _kinds() -> str:
    return f"{', '.join(READERS)} (or that and .gz)"


def _suffix(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _stem(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).stem


def _begins_with(names: Sequence[str], file: Path) -> bool:
    """Such as test_200.jsonl and test-00000-of-00002.parquet, not testimony.txt."""
    return re.match(rf"({'|'.join(map(re.escape, names))})(?![a-z])", file.name.lower()) is not None


@lru_cache(maxsize=8)
def _read_files(path: str, files: tuple[Path, ...], split: str, _: tuple[tuple[int, int], ...]) -> Table:
    datasets = need("datasets", "tasks")
    places = [path if Path(path).name == file.name else f"{path.rstrip('/')}/{file.name}" for file in files]
    where = places[0] if len(files) == 1 else path
    reader = READERS[_suffix(files[0])]
    options: dict[str, Any] = {"chunksize": ONE_CHUNK} if reader == "json" else {}
    names = {"train": [glob.escape(str(file.absolute())) for file in files]}
    try:
        # It would ask a server to count the use of its reader.
        with quiet(datasets, HF_UPDATE_DOWNLOAD_COUNTS=False), TemporaryDirectory(prefix="mtad-rows-") as cache:
            # Streamed: nothing is copied into the user's cache, and no older copy of a changed file is found there.
            options = {"data_files": names, "split": "train", "streaming": True, "cache_dir": cache, **options}
            rows = list(datasets.load_dataset(reader, **options))
    except StopIteration:  # how it says that a JSON file is empty
        rows = []
    except Exception as error:  # whatever the readers of many formats may raise
        faults = (
            f"{place}: {fault}" for place, file in zip(places, files, strict=True) if (fault := _fault(file, reader))
        )
        if isinstance(error, datasets.table.CastError):
            said = f"all fields must stand in the first file, in its first {ONE_CHUNK >> 20} MiB: {one_line(error)}"
        else:
            said = one_line(error)
        raise UserError(next(faults, f"{where}: {said}")) from None
    if rows and reader == "text":  # the mark of a byte order is no text
        rows[0] = {"text": rows[0]["text"].removeprefix("\ufeff")}
    if not rows:
        raise UserError(f"{where}: there are no rows in it")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    origin = {"id": None, "subset": None, "revision": None, "file": ", ".join(file.name for file in files)}
    return Table(rows, where, {**origin, "sha256": digest.hexdigest(), "split": split, "rows": len(rows)})


@contextmanager
def quiet(datasets: Any, **config: bool) -> Iterator[None]:
    """`datasets` without messages, and with these attributes of its `config`."""
    verbosity, before = datasets.logging.get_verbosity(), {name: getattr(datasets.config, name) for name in config}
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    vars(datasets.config).update(config)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        vars(datasets.config).update(before)


def _fault(file: Path, reader: str) -> str | None:
    """What is wrong with a file that could not be read, and in which line; None if that cannot be told."""
    opened = gzip.open if file.suffix.lower() == ".gz" else Path.open
    try:
        with opened(file, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        return one_line(error)
    if reader == "parquet":
        return None
    whole = reader == "json" and content.lstrip().startswith(b"[") and _suffix(file) == ".json"
    for number, part in enumerate([content] if whole else content.split(b"\n"), 1):
        try:
            text = part.decode()
            values = json.loads(text, object_pairs_hook=_object) if reader == "json" and text.strip() else {}
        except json.JSONDecodeError as error:
            return f"line {number + error.lineno - 1} is no JSON: {error.msg} (column {error.colno})"
        except (ValueError, RecursionError) as error:
            return f"{'it' if whole else f'line {number}'} cannot be read: {one_line(error)}"
        for row, value in enumerate(values if whole else [values], number):
            if not isinstance(value, dict):
                return f"row {row} is no object with fields but {json.dumps(value)[:40]}"
    return None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object such as Arrow takes it: no key twice, no half of a surrogate pair (its encoding fails)."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in an object")
    json.dumps(pairs, ensure_ascii=False).encode()
    return dict(pairs)


def one_line(error: Exception) -> str:
    """Another library's message, to be quoted in one of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@lru_cache(maxsize=8)
def _read_hub(id: str, subset: str | None, revision: str | None, split: str) -> Table:
    from experiments.dataset.hub import read_split  # it imports what asks the hub, which local files do without

    rows, commit = read_split(id, subset, revision, split)
    if not rows:
        raise UserError(f"{id}: there are no rows in the split {split!r}")
    origin = {"id": id, "subset": subset, "revision": commit, "file": None, "sha256": None, "split": split}
    return Table(rows, id, {**origin, "rows": len(rows)})

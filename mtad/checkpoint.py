"""The files of a checkpoint in Hugging Face's format: which of them a model is read from, and whether they are whole.

Reads names, sizes and headers alone, so that 140 GB are checked in a moment. Does not know which tensors a model needs.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from mtad.errors import UserError

# The first of these that a folder has is what transformers reads; an index names shards.
ENTRIES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SHARDS = {"model-*-of-*.safetensors": ENTRIES[1], "pytorch_model-*-of-*.bin": ENTRIES[3]}
LENGTH_BYTES = 8  # of the length of a safetensors header, which comes first
LONGEST_HEADER = 100_000_000  # bytes; the safetensors library refuses a longer one
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how files of torch.save begin: since torch 1.6, and before
AGAIN = "copy or download it again"
POINTER = "is a pointer of git-lfs, not the file itself; run `git lfs pull` in its folder"


def weight_files(where: str, folder: Path) -> list[Path]:
    """The files that hold the weights, at least one; `where` begins every message.

    Raises:
        UserError: there are none, the index cannot be read, or it names files that are not there.
    """
    entry = next((folder / name for name in ENTRIES if (folder / name).is_file()), None)
    if entry is None:
        for pattern, index in SHARDS.items():
            if any(folder.glob(pattern)):
                raise UserError(f"{where}: there are shards ({pattern}) but no {index}, which lists them; copy it too")
        raise UserError(f"{where}: no weights in this folder (looked for {', '.join(ENTRIES)})")
    if entry.suffix != ".json":
        return [entry]
    files = [folder / name for name in _shards(where, entry)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{where}: {missing[0]} is not there ({len(missing)} of the {len(files)} shards that {entry.name} names "
            "are missing); copy or download them"
        )
    return files


def check_whole(where: str, files: list[Path]) -> None:
    """Raises UserError if one of the files was cut off, or is not what its name says; `where` begins the message."""
    faults = [f"{file.name} {fault}" for file in files if (fault := _fault(file))]
    if faults:
        more = f" ({len(faults)} of {len(files)} files are damaged)" if len(faults) > 1 else ""
        raise UserError(f"{where}: {faults[0]}{more}")


def _shards(where: str, index: Path) -> list[str]:
    """The files that an index names, sorted. Raises UserError."""
    text = index.read_bytes()
    if text.startswith(LFS_POINTER):
        raise UserError(f"{where}: {index.name} {POINTER}")
    try:
        names = set(json.loads(text)["weight_map"].values())
        if names and all(isinstance(name, str) and name for name in names):
            return sorted(names)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{where}: {index.name} is damaged: it has no weight_map of tensors to files; {AGAIN}")


def _fault(file: Path) -> str | None:
    """What is wrong with a file of weights, and what to do; None: nothing that its size and its header show."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(len(LFS_POINTER))
    if not size:
        return f"is empty; {AGAIN}"
    if head == LFS_POINTER:
        return POINTER
    return _safetensors_fault(file, size) if file.suffix == ".safetensors" else _torch_fault(file, head)


def _safetensors_fault(file: Path, size: int) -> str | None:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size >= LENGTH_BYTES and length > LONGEST_HEADER:
            return f"is no safetensors file, whatever its name says; {AGAIN}"
        data = LENGTH_BYTES + length  # where the tensors begin
        if size < max(data, LENGTH_BYTES + 1):
            return f"is cut off: it has {size} bytes, and its header alone needs more; {AGAIN}"
        header = stream.read(length)
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = data + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"is damaged: its header is not one of safetensors; {AGAIN}"
    if size < end:
        return f"is cut off: it has {size} of {end} bytes; {AGAIN}"
    return f"is damaged: it has {size} bytes and its header tells of {end}; {AGAIN}" if size > end else None


def _torch_fault(file: Path, head: bytes) -> str | None:
    if head.startswith(ZIP):  # the list of what a zip holds is its end
        return None if zipfile.is_zipfile(file) else f"is cut off: the end of its zip is missing; {AGAIN}"
    return None if head.startswith(PICKLE) else f"is no file of torch.save, whatever its name says; {AGAIN}"

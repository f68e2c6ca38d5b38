"""Folders that a user names: where they lie, and a hash of what is in them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mtad.errors import UserError

PACKAGE = Path(__file__).parent
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
HASHED_WHOLE_BYTES = 2**30  # of larger files only evenly spaced blocks are hashed: 140 GB would take minutes
BLOCK_BYTES = 2**20
BLOCKS = 64


def find_folder(path: str) -> Path:
    """The folder that a user or a model YAML means by `path`; it need not exist."""
    folder = Path(os.path.expanduser(path))  # noqa: PTH111  # Path's own raises for an unknown user
    return PACKAGE.parent / folder if folder.parts[:1] == (PACKAGE.name,) else folder


def content_hash(path: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """sha256 over names, sizes and content of a file, or of a folder's files that match (subfolders left out)."""
    digest = hashlib.sha256()
    files = (
        [path] if path.is_file() else {file for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    )
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            starts = range(0, size, BLOCK_BYTES)
            for start in starts if size <= HASHED_WHOLE_BYTES else starts[:: len(starts) // BLOCKS]:
                stream.seek(start)
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()


def check_weights(key: str, folder: Path) -> Path:
    """The folder, if a model may lie in it; `key` is where the user named it. Raises UserError."""
    # First of all: transformers takes a folder that does not exist for a hub id, and tries the network for 20 s.
    if not folder.is_dir():
        raise UserError(f"{key}.path={folder}: there is no such folder")
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}.path={folder}: no config.json in this folder")
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        raise UserError(f"{key}.path={folder}: no weights in this folder (looked for {', '.join(WEIGHTS)})")
    return folder

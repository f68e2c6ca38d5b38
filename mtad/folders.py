"""Folders that a user names: where they lie, and a hash of what is in them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mtad.checkpoint import check_whole, weight_files
from mtad.errors import UserError

PACKAGE = Path(__file__).parent
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")  # one of them is in every tokenizer's folder
HASHED_WHOLE_BYTES = 2**30  # of more, only evenly spaced blocks of each file are hashed: 140 GB would take minutes
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
    sizes = {file: file.stat().st_size for file in sorted(files)}
    whole = sum(sizes.values()) <= HASHED_WHOLE_BYTES
    for file, size in sizes.items():
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            starts = range(0, size, BLOCK_BYTES)
            for start in starts if whole else starts[:: max(len(starts) // BLOCKS, 1)]:
                stream.seek(start)
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()


def check_weights(key: str, folder: Path) -> Path:
    """The folder, if a whole model may lie in it; `key` is where the user named it. Raises UserError.

    No tensor is read: names, sizes and headers show what is missing or cut off.
    """
    where = f"{key}.path={folder}"
    # First of all: transformers takes a folder that does not exist for a hub id, and tries the network for 20 s.
    if not folder.is_dir():
        raise UserError(f"{where}: there is no such folder")
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: no config.json in this folder{_hint(folder)}")
    check_whole(where, weight_files(where, folder))
    if not any(file for pattern in TOKENIZERS for file in folder.glob(pattern)):
        raise UserError(f"{where}: no tokenizer in this folder (looked for {', '.join(TOKENIZERS)}); copy it too")
    return folder


def _hint(folder: Path) -> str:
    """What a folder without config.json holds instead, where that is known."""
    if (folder / "adapter_config.json").is_file():
        return ", only a PEFT adapter; merge it into its base model (merge_and_unload), save that, and give its folder"
    if any(folder.glob("consolidated.*.pth")):
        return "; consolidated.*.pth are in Meta's own format: take the repository in Hugging Face's (Llama 2: ...-hf)"
    return ""

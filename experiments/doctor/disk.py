"""What a run would still download, against the free space of the Hugging Face cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

from experiments.doctor.finding import Finding
from experiments.doctor.models import Known, published_facts
from experiments.memory_report import spoken
from mtad.dtypes import DTYPES
from mtad.hub import TIMEOUT_SECONDS
from mtad.sources import Source

FILES = ("model*.safetensors", "pytorch_model*.bin")  # the first kind that there is will be read
SINGLE = ("model.safetensors", "pytorch_model.bin")


def disk(models: Iterable[Known]) -> Finding:
    """Whether the cache has room for the weights that are not in it yet."""
    wanted = [known for known in models if known.spec.id and not (known.spec.path or known.spec.weights)]
    if not wanted:
        return Finding("disk", "ok", "nothing is to be downloaded")
    unknown = [known.role for known in wanted if known.source is None]
    if unknown:
        return Finding("disk", "not checked", f"the size of the {unknown[0]} is not known")
    sizes = [_to_download(known) for known in wanted]
    size, about = sum(size for size, _ in sizes), any(about for _, about in sizes)
    if not size:
        return Finding("disk", "ok", "all weights are in the cache of the hub already")
    free = free_bytes(Path(constants.HF_HUB_CACHE))
    said = f"{'about ' if about else ''}{spoken(size)} to be downloaded, {spoken(free)} free in the cache of the hub"
    if size > free:
        return Finding("disk", "fails", said, "make room, or set HF_HOME to a folder on a larger disk")
    return Finding("disk", "ok", said)


def free_bytes(folder: Path) -> int:
    """On the disk where this folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _to_download(known: Known) -> tuple[int, bool]:
    """Bytes that are not in the cache, and whether that is an estimate from the number of weights."""
    source = known.source
    assert source is not None
    if source.revision and _all_cached(source.where, source.revision):
        return 0, False
    if source.revision:
        try:
            return _listed(source.where, source.revision), False
        except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled):
            pass  # no figures without the hub: the number of weights tells
    return source.parameters * _stored(source).itemsize, True


def _stored(source: Source) -> torch.dtype:
    """The type of number in the files, as the configuration or the committed shape says; most are of 16 bits."""
    number = getattr(source.config, "dtype", None)
    return number if isinstance(number, torch.dtype) else DTYPES[published_facts(source.where).get("stored", "fp16")]


def _all_cached(repository: str, commit: str) -> bool:
    def cached(name: str) -> str | None:
        found = try_to_load_from_cache(repository, name, revision=commit)
        return found if isinstance(found, str) else None

    for single in SINGLE:
        if cached(single):
            return True
        if index := cached(f"{single}.index.json"):
            shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
            return all(map(cached, shards))
    return False


def _listed(repository: str, commit: str) -> int:
    """As the hub lists the files, those in the cache left out."""
    found = HfApi().model_info(repository, revision=commit, files_metadata=True, timeout=TIMEOUT_SECONDS)
    files = {file.rfilename: file.size or 0 for file in found.siblings or []}
    kinds = [[name for name in files if fnmatch(name, pattern)] for pattern in FILES]
    wanted = next(filter(None, kinds), [])
    return sum(files[name] for name in wanted if not isinstance(try_to_load_from_cache(repository, name), str))

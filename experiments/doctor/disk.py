"""What a run would still download, against the free space of the Hugging Face cache."""

from __future__ import annotations

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
    if source.origin.revision and not source.revision:  # found whole in the cache, and read from there
        return 0, False
    if source.revision:
        try:
            return _listed(source.where, source.revision), False
        except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled):
            pass  # no figures without the hub: the number of weights tells
    return source.parameters * _stored(source).itemsize, True


def _stored(source: Source) -> torch.dtype:
    """The type of number in the files, as the committed shape or the configuration says; most are of 16 bits."""
    stored, number = published_facts(source.where).get("stored"), getattr(source.config, "dtype", None)
    return DTYPES[stored] if stored else number if isinstance(number, torch.dtype) else torch.float16


def _listed(repository: str, commit: str) -> int:
    """As the hub lists the files, those in the cache left out."""
    found = HfApi().model_info(repository, revision=commit, files_metadata=True, timeout=TIMEOUT_SECONDS)
    files = {file.rfilename: file.size or 0 for file in found.siblings or []}
    kinds = [[name for name in files if fnmatch(name, pattern)] for pattern in FILES]
    wanted = next(filter(None, kinds), [])
    return sum(files[name] for name in wanted if not isinstance(try_to_load_from_cache(repository, name), str))

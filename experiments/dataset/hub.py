"""Data sets of the Hugging Face hub: which commit is meant, asked once and with a short timeout, and its rows.

What was read once is read again without a network: from the caches of `datasets` and `huggingface_hub`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from experiments.dataset.reading import one_line, quiet
from experiments.optional import need
from mtad.errors import UserError, first_line
from mtad.hub import TIMEOUT_SECONDS

CARD = "README.md"
ADVICE = "give a file or folder with task.path="


def read_split(
    id: str, subset: str | None, revision: str | None, split: str
) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The rows of a split and the commit they are from. Raises UserError."""
    datasets = need("datasets", "tasks")
    commit, online = commit_of(id, revision)
    try:
        with quiet(datasets, HF_HUB_OFFLINE=datasets.config.HF_HUB_OFFLINE or not online):  # else it tries for long
            # With hf:// a folder of that name in the working directory is not taken for it.
            table = datasets.load_dataset(f"hf://datasets/{id}", subset, revision=commit, split=split)
    except Exception as error:  # whatever its many formats and the hub may raise
        raise UserError(
            f"{id}, subset {subset}, split {split!r}: {cache_fault() or one_line(error)}; {ADVICE}"
        ) from None
    read = {Path(file["filename"]).parent.name for file in table.cache_files}
    if read - {commit}:  # without a network `datasets` takes what it prepared last, whatever the commit
        raise UserError(f"{id}: only commit {', '.join(read)} is in the cache, not {commit}: go online or {ADVICE}")
    return list(table), commit


def commit_of(id: str, revision: str | None) -> tuple[str, bool]:
    """The commit meant by `revision`: as the hub says (True), else as cached (False). Raises UserError."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        try:
            card = hub.hf_hub_url(id, CARD, repo_type="dataset", revision=revision)
            found = hub.get_hf_file_metadata(card, timeout=TIMEOUT_SECONDS).commit_hash
            hub.hf_hub_download(id, CARD, repo_type="dataset", revision=revision)  # keeps what `revision` means
        except errors.RemoteEntryNotFoundError:
            found = hub.HfApi().dataset_info(id, revision=revision, timeout=TIMEOUT_SECONDS).sha
    except errors.GatedRepoError:
        raise UserError(
            f"{id} is gated: accept its terms on the hub and set HF_TOKEN to a token that may read it, or {ADVICE}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{id} has no revision {revision!r} on the hub; change task.revision or {ADVICE}") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise UserError(
            f"the hub knows no data set {id}, or it is private: set HF_TOKEN to a token that may read it, or {ADVICE}"
        ) from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        cached = hub.try_to_load_from_cache(id, CARD, repo_type="dataset", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name, False
        if fault := cache_fault():
            raise UserError(f"{id}: {fault}") from None
        raise UserError(f"no access to {id} on the hub ({first_line(error)}): {ADVICE}, or go online") from None
    if not found:
        raise UserError(f"the hub names no commit for {id}; {ADVICE}")
    return found, True


def cache_fault() -> str | None:
    """What is wrong with the folders in which data sets are kept, local ones that lm-eval reads too, if they are it."""
    import huggingface_hub

    for folder in (need("datasets", "tasks").config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return f"the cache {folder} cannot be written ({error.strerror}); set HF_HOME to a folder that can"
    return None

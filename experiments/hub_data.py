"""Data sets of the Hugging Face hub: which commit is meant, asked once and with a short timeout, and its rows.

What was read once is read again without a network: from the caches of `datasets` and `huggingface_hub`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.optional import need
from mtad.errors import UserError, first_line
from mtad.hub import TIMEOUT_SECONDS

ADVICE = "give a file or folder with task.path="


def read_split(
    id: str, subset: str | None, revision: str | None, split: str
) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The rows of a split and the commit they are from. Raises UserError."""
    datasets = need("datasets", "tasks")
    commit = commit_of(id, revision)
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:  # with hf:// a folder of that name in the working directory is not taken for it
        table = datasets.load_dataset(f"hf://datasets/{id}", subset, revision=commit, split=split)
    except Exception as error:  # whatever its many formats and the hub may raise
        raise UserError(f"{id}, subset {subset}, split {split!r}: {_sentence(error)}; {ADVICE}") from None
    finally:
        datasets.logging.set_verbosity(verbosity)
    read = {Path(file["filename"]).parent.name for file in table.cache_files}
    if read - {commit}:  # without a network `datasets` takes what it prepared last, whatever the commit
        raise UserError(f"{id}: only commit {', '.join(read)} is in the cache, not {commit}: go online or {ADVICE}")
    return list(table), commit


def commit_of(id: str, revision: str | None) -> str:
    """The commit meant by `revision`: as the hub says, else, without a network, as cached. Raises UserError."""
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    try:
        commit = HfApi().dataset_info(id, revision=revision, timeout=TIMEOUT_SECONDS).sha
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
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:  # type: ignore[attr-defined]
        cached = try_to_load_from_cache(id, "README.md", repo_type="dataset", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        raise UserError(f"no access to {id} on the hub ({first_line(error)}): {ADVICE}, or go online") from None
    if not commit:
        raise UserError(f"the hub names no commit for {id}; {ADVICE}")
    return commit


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

"""The Hugging Face hub, asked once and with a short timeout, so that a missing network or token shows in seconds."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mtad.checkpoint import check_whole, weight_files
from mtad.errors import UserError, first_line

TIMEOUT_SECONDS = 5.0
SMALL_FILES = ("config.json", "tokenizer_config.json", "generation_config.json")  # the last says what ends a text


def whole_snapshot(repository: str, commit: str) -> Path | None:
    """The folder of the hub's cache that holds this commit with all that a run reads, to be read without a network.

    Raises UserError if a file of weights there is damaged.
    """
    # Beside the path of a file the cache may know that the hub has none; it gives None where it knows neither.
    known = [try_to_load_from_cache(repository, name, revision=commit) for name in SMALL_FILES]
    if None in known or not isinstance(known[0], str):
        return None
    folder, where = Path(known[0]).parent, f"{repository} in the hub's cache"
    try:
        files = weight_files(where, folder)
    except UserError:  # not all of it has been downloaded yet
        return None
    try:
        check_whole(where, files)
    except UserError as error:
        raise UserError(f"{error}, after removing {folder.parents[1]}") from None
    return folder


def commit_of(key: str, repository: str, revision: str | None) -> str:
    """The commit meant by `revision`: as cached, else as the hub says, asked once."""
    advice = f"give a folder with {key}.path=FOLDER"
    try:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        found = get_hf_file_metadata(
            hf_hub_url(repository, "config.json", revision=revision), timeout=TIMEOUT_SECONDS
        ).commit_hash
    except GatedRepoError:
        raise UserError(
            f"{repository} is gated: accept its licence on the hub and set HF_TOKEN to a token that may read it, "
            f"or {advice}"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repository} has no revision {revision!r} on the hub; change it or {advice}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"the hub knows no {repository}, or it is private: set HF_TOKEN to a token that may read it, or {advice}"
        ) from None
    except EntryNotFoundError:
        raise UserError(f"{repository} holds no config.json on the hub; {advice}") from None
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise UserError(
            f"no access to {repository} on the hub ({first_line(error)}): {advice}, or go online with HF_TOKEN set"
        ) from None
    if not found:
        raise UserError(f"the hub names no commit for {repository}; {advice}")
    return found

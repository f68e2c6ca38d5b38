"""The hub's cache on this machine: what of it is read without the hub, and what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from mtad.errors import UserError
from mtad.sources import ModelSpec, end_tokens, find_model, read_tokenizer
from mtad.weights import read_weights

COMMIT = "b" * 40
SPEC = ModelSpec(id="us/ours")


@pytest.fixture
def cached(sharded_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of us/ours in a cache as huggingface_hub lays it out; the hub itself cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    repository = tmp_path / "models--us--ours"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(sharded_llama / "target", snapshot)
    return snapshot


def test_a_whole_snapshot_is_read_without_the_hub_and_recorded_by_its_commit(cached: Path) -> None:
    source = find_model("model.target", SPEC)
    assert (source.where, source.revision) == (str(cached), None)
    assert (source.origin.id, source.origin.revision, source.origin.folder) == ("us/ours", COMMIT, None)
    assert end_tokens(source, read_tokenizer(source)) == {1}
    assert read_weights(source, torch.device("cpu")).num_parameters() == source.parameters


@pytest.mark.parametrize(
    "name", ["model-00002-of-00005.safetensors", "tokenizer_config.json", "generation_config.json"]
)
def test_a_snapshot_that_lacks_a_file_is_left_to_the_hub(cached: Path, name: str) -> None:
    (cached / name).unlink()
    source = find_model("model.target", SPEC)
    assert (source.where, source.revision) == ("us/ours", COMMIT), "the rest could not be downloaded"


def test_a_file_that_the_hub_is_known_not_to_have_is_not_missed(cached: Path) -> None:
    (cached / "generation_config.json").unlink()
    absent = cached.parents[1] / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    (absent / "generation_config.json").touch()
    assert find_model("model.target", SPEC).where == str(cached)


def test_a_cut_shard_is_one_line_that_names_what_to_remove(cached: Path) -> None:
    shard = cached / "model-00002-of-00005.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        find_model("model.target", SPEC)
    message = str(caught.value)
    assert message.startswith("us/ours in the hub's cache: model-00002-of-00005.safetensors is cut off: it has ")
    assert message.endswith(f"download it again, after removing {cached.parents[1]}") and "\n" not in message

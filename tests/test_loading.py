"""Loading: what is refused, with which words, and what is allowed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from mtad import hub, sources
from mtad.errors import UserError
from mtad.folders import content_hash, find_folder
from mtad.loading import inspect_pair, load_pair
from mtad.placement import find_device
from mtad.sources import ModelSpec
from tests.checkpoints import POSITIONS, save_tokenizer
from tests.toy import ROOT, WORDS


def specs(pair: Path) -> tuple[ModelSpec, ModelSpec]:
    return ModelSpec(path=str(pair / "target")), ModelSpec(path=str(pair / "draft"))


@pytest.fixture
def own_pair(saved_pair: Path, tmp_path: Path) -> Path:
    """A copy of the pair that a test may damage."""
    return copytree(saved_pair, tmp_path / "pair")


def test_padded_rows_of_the_embedding_are_sliced_off(saved_pair: Path) -> None:
    pair = load_pair(*specs(saved_pair), device="cpu")
    assert pair.target.lm.config.vocab_size == len(WORDS) + 6
    assert pair.target.vocabulary == pair.draft.vocabulary == len(WORDS) + 2
    logp = pair.target.score([([0, 2, 3], [4, 5])])[0].log_likelihoods
    ids = torch.tensor([[0, 2, 3, 4, 5]])
    logits = pair.target.lm(input_ids=ids).logits[0, 2:4, : len(WORDS) + 2].double()
    assert logp == pytest.approx(torch.log_softmax(logits, -1)[[0, 1], [4, 5]].tolist(), abs=1e-5)


def test_the_limit_is_the_smaller_one_and_origins_name_no_path(own_pair: Path) -> None:
    config = json.loads((own_pair / "draft" / "config.json").read_text())
    (own_pair / "draft" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 48}))
    pair = load_pair(*specs(own_pair), device="cpu", dtype="bf16")
    assert pair.target.max_positions == POSITIONS and pair.max_positions == 48
    assert pair.target.lm.dtype == torch.bfloat16
    origin = pair.origins["target"]
    assert (origin.folder, origin.id, origin.dtype) == ("target", None, "bfloat16")
    assert origin.sha256 != pair.origins["draft"].sha256


def test_end_tokens_are_a_set_from_generation_config_and_tokenizer(own_pair: Path) -> None:
    (own_pair / "target" / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert inspect_pair(*specs(own_pair)).eos == {1, 7, 9}
    (own_pair / "target" / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert inspect_pair(*specs(own_pair)).eos == {1, 5}
    (own_pair / "target" / "generation_config.json").unlink()
    assert inspect_pair(*specs(own_pair)).eos == {1}


def test_two_vocabularies_are_refused_naming_both_models_and_the_first_difference(own_pair: Path) -> None:
    save_tokenizer(own_pair / "draft", [*WORDS[:10], "other", *WORDS[11:]])
    with pytest.raises(UserError, match=r"token 12 is 'w10' for target .*target .* and 'other' for draft .*draft"):
        inspect_pair(*specs(own_pair))
    save_tokenizer(own_pair / "draft", WORDS[:-1])
    with pytest.raises(UserError, match=r"token 59 is 'w57' for target .* and None for draft"):
        inspect_pair(*specs(own_pair))


def _drop(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return damage


_drop_tensor = _drop("model.layers.1.mlp.up_proj.weight")


def _other_config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return damage


def _remove(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("model.safetensors"), "no weights in this folder"),
        (_remove("config.json"), "no config.json"),
        (_remove("tokenizer.json", "tokenizer_config.json"), "no tokenizer in this folder"),
        (_cut, r"model.safetensors is cut off: it has 5000 of \d{5} bytes; copy or download it again"),
        (_drop_tensor, r"the weights of target .* lack model.layers.1.mlp.up_proj.weight \(1 missing in all\)"),
        (_other_config(hidden_size=48), "cannot read the weights"),
        (_other_config(num_hidden_layers=3), "lack model.layers.2"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot read the tokenizer"),
        (lambda folder: (folder / "generation_config.json").write_text("{"), "cannot read the generation config"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot read the config"),
    ],
)
def test_a_damaged_folder_is_one_line(own_pair: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(own_pair / "target")
    with pytest.raises(UserError, match=message) as caught:
        load_pair(*specs(own_pair), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_one_line(own_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources, "content_hash", refuse)
    with pytest.raises(UserError, match=r"cannot read the files of target .*Permission denied"):
        inspect_pair(*specs(own_pair))


def test_too_little_memory_is_one_line(saved_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    blueprint = inspect_pair(*specs(saved_pair))
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)
    with pytest.raises(UserError, match=r"^target .* does not fit on cpu: CUDA out of memory.$"):
        blueprint.load()


def test_tied_embeddings_are_not_missed(own_pair: Path) -> None:
    for role in ("target", "draft"):
        _other_config(tie_word_embeddings=True)(own_pair / role)
        _drop("lm_head.weight")(own_pair / role)
    assert load_pair(*specs(own_pair), device="cpu").target.vocabulary == len(WORDS) + 2


def test_a_missing_folder_is_named_at_once_and_never_taken_for_a_hub_id(saved_pair: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"model.target.path=no/such: there is no such folder"):
        inspect_pair(ModelSpec(id="some/model", path="no/such"), specs(saved_pair)[1])
    assert time.monotonic() - started < 2


def test_without_the_hub_one_line_says_how_to_give_a_folder_or_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no access to some/model .*model.target.path=FOLDER.*HF_TOKEN") as caught:
        inspect_pair(ModelSpec(id="some/model"), ModelSpec(id="some/model"))
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value)


def test_a_model_without_id_and_path_is_refused(saved_pair: Path) -> None:
    with pytest.raises(UserError, match=r"model.draft needs a hub id or a folder"):
        inspect_pair(specs(saved_pair)[0], ModelSpec())


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:0", "tpu:1", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="device must be auto, cpu, cuda or cuda:<index>"):
        find_device(name)


def test_the_embedded_pair_lies_in_the_package_wherever_one_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_folder("mtad/tiny/target") == ROOT / "mtad" / "tiny" / "target"
    assert find_folder("other/target") == Path("other/target")


def test_the_hash_of_a_folder_is_that_of_its_content(saved_pair: Path, own_pair: Path) -> None:
    assert content_hash(saved_pair / "target") == content_hash(own_pair / "target")
    weights = own_pair / "target" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert content_hash(saved_pair / "target") != content_hash(own_pair / "target")

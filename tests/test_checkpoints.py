"""Checkpoints in Hugging Face's format: whole ones are loaded in every form, damaged ones are one line before that."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from mtad.errors import UserError
from mtad.folders import check_weights, content_hash
from mtad.loading import Pair, load_pair
from mtad.serving import serve
from mtad.session import Session
from mtad.sources import CONTENT, ModelSpec
from mtad.tree import Tree
from tests.checkpoints import (
    SAFE_INDEX,
    SHARDED_POSITIONS,
    TORCH,
    TORCH_INDEX,
    add_torch_files,
    drop_safetensors,
    save_sharded_pair,
    shards,
)
from tests.conftest import PythonRun
from tests.fakes import Recomputed
from tests.toy import ROOT, WORDS

TOKENS = len(WORDS) + 2
TEXT = [0, 5, 9, 2, 33, 17]
TREE = Tree.of_paths([[1, 2, 3], [1, 2, 4], [9]])
TOY = (f"hydra.searchpath=[file://{ROOT}/tests/conf]", "task=toy")
Damage = Callable[[Path], object]


@pytest.fixture(scope="module", params=["llama", "opt", "qwen3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "qwen3":
        return save_sharded_pair(tmp_path_factory.mktemp("qwen3"), "qwen3")
    folder: Path = request.getfixturevalue(f"sharded_{request.param}")
    return folder


@pytest.fixture
def copied(sharded_llama: Path, tmp_path: Path) -> Path:
    """A sharded target that a test may damage, and its draft beside it."""
    return copytree(sharded_llama, tmp_path / "pair") / "target"


def loaded(folder: Path) -> Pair:
    return load_pair(*(ModelSpec(path=str(folder / role)) for role in ("target", "draft")), device="cpu")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([TEXT])).logits


def test_shards_are_loaded_as_the_model_that_was_saved(pair: Path) -> None:
    models = loaded(pair)
    assert models.max_positions == SHARDED_POSITIONS and models.target.vocabulary == TOKENS
    for role, model in (("target", models.target), ("draft", models.draft)):
        assert len(shards(pair / role)) >= 3 and (pair / role / SAFE_INDEX).is_file()
        again = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(pair / role), attn_implementation="sdpa")
        again.load_state_dict(_tensors(pair / role), strict=False)  # OPT's last layer is its first, and saved once
        torch.testing.assert_close(logits(model.lm), logits(again.eval()))


def test_cached_reads_of_trees_give_the_laws_of_the_whole_text(pair: Path) -> None:
    models = loaded(pair)
    for model in (models.target, models.draft):
        session, again = Session(model), Recomputed(model)
        session.open(TEXT)
        for path in (TREE.path(2), []):
            law = serve([session.read(TREE)])[0].logp
            for node in range(len(TREE)):
                expected = again.logits([*session.text, *TREE.path(node)]).double().log_softmax(-1)
                torch.testing.assert_close(torch.from_numpy(law[node]), expected, atol=1e-4, rtol=1e-4)
            session.commit([*path, 7])


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in shards(folder) for name, one in load_file(file).items()}


def _one_torch_file(folder: Path) -> None:
    torch.save(_tensors(folder), folder / TORCH)
    drop_safetensors(folder)


def _old_torch_file(folder: Path) -> None:
    torch.save(_tensors(folder), folder / TORCH, _use_new_zipfile_serialization=False)
    drop_safetensors(folder)


def _torch_shards(folder: Path) -> None:
    add_torch_files(folder)
    drop_safetensors(folder)


def _both_of_which_the_torch_files_are_cut(folder: Path) -> None:
    add_torch_files(folder)
    for file in folder.glob("*.bin"):
        file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    "form", [_one_torch_file, _old_torch_file, _torch_shards, _both_of_which_the_torch_files_are_cut]
)
def test_every_form_of_file_gives_the_same_model(sharded_llama: Path, copied: Path, form: Damage) -> None:
    form(copied)
    torch.testing.assert_close(logits(loaded(copied.parent).target.lm), logits(loaded(sharded_llama).target.lm))


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_run_takes_shards(family: str, python_run: PythonRun, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(f"sharded_{family}")
    paths = (f"model.{role}.path={folder / role}" for role in ("target", "draft"))
    little = ("limit=1", "max_new_tokens=3", "energy=false", "reference=[autoregressive]")
    code, out, err = python_run(*TOY, *paths, f"results_dir={tmp_path}", *little)
    assert code == 0, err
    assert "mtad" in out and "autoregressive" in out


def _shard(number: int) -> Callable[[Path], Path]:
    return lambda folder: shards(folder)[number - 1]


def _cut(file: Callable[[Path], Path], to: int | None = None) -> Damage:
    """Cut a file in half, or to so many bytes."""
    return lambda folder: os.truncate(file(folder), file(folder).stat().st_size // 2 if to is None else to)


def _write(file: Callable[[Path], Path], content: bytes) -> Damage:
    return lambda folder: file(folder).write_bytes(content)


def _remove(*numbers: int) -> Damage:
    return lambda folder: [file.unlink() for file in [shards(folder)[number - 1] for number in numbers]]


def _all(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def _named(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


def _config(**changes: object) -> Damage:
    def change(folder: Path) -> None:
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def _metas_own(folder: Path) -> None:
    (folder / "config.json").rename(folder / "params.json")
    (folder / "consolidated.00.pth").write_bytes(b"x")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9976576152\n"
BEFORE_LOADING: list[tuple[Damage, str]] = [
    (
        _remove(2),
        r"model-00002-of-00005.safetensors is not there \(1 of the 5 shards that model.safetensors.ind",
    ),
    (_remove(2, 4, 5), r"model-00002-of-00005.safetensors is not there \(3 of the 5 shards"),
    (_remove(1, 2, 3, 4, 5), r"model-00001-of-00005.safetensors is not there \(5 of the 5 shards"),
    (_cut(_shard(2)), r"model-00002-of-00005.safetensors is cut off: it has \d{6} of \d{6} bytes; copy or download"),
    (_all(_cut(_shard(2)), _cut(_shard(4), 4)), r"00002-of-00005.* \(2 of 5 files are damaged\)"),
    (_cut(_shard(3), 100), "00003-of-00005.safetensors is cut off: it has 100 bytes, and its header alone needs more"),
    (_cut(_shard(3), 3), "00003-of-00005.safetensors is cut off: it has 3 bytes"),
    (_cut(_shard(1), 0), "model-00001-of-00005.safetensors is empty"),
    (_write(_shard(5), POINTER), "model-00005-of-00005.safetensors is a pointer of git-lfs.*git lfs pull"),
    (_write(_shard(5), b"<!DOCTYPE html>" * 9), "model-00005-of-00005.safetensors is no safetensors file"),
    (_write(_shard(5), (4).to_bytes(8, "little") + b"[[[["), "its header is not one of safetensors"),
    (_write(_shard(5), (2).to_bytes(8, "little") + b"{}more"), "it has 14 bytes and its header tells of 10"),
    (_write(_named(SAFE_INDEX), b'{"weight_map": '), "model.safetensors.index.json is damaged"),
    (_write(_named(SAFE_INDEX), b'{"weight_map": {"x": 3}}'), "model.safetensors.index.json is damaged"),
    (_write(_named(SAFE_INDEX), b"[]"), "model.safetensors.index.json is damaged"),
    (_write(_named(SAFE_INDEX), POINTER), "model.safetensors.index.json is a pointer of git-lfs"),
    (lambda folder: (folder / SAFE_INDEX).unlink(), "there are shards .* but no model.safetensors.index.json"),
    (drop_safetensors, "no weights in this folder"),
    (
        _all(_torch_shards, lambda f: os.truncate(f / "pytorch_model-00002-of-00005.bin", 9999)),
        "end of its zip is miss",
    ),
    (_all(_torch_shards, lambda f: (f / TORCH_INDEX).write_text("{")), "pytorch_model.bin.index.json is damaged"),
    (_all(_one_torch_file, _write(_named(TORCH), POINTER)), "pytorch_model.bin is a pointer of git-lfs"),
    (_all(_one_torch_file, _write(_named(TORCH), b"<html>")), "pytorch_model.bin is no file of torch.save"),
    (_adapter, "no config.json in this folder, only a PEFT adapter; merge it"),
    (_metas_own, "no config.json in this folder; consolidated.*.pth are in Meta's own format"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer in this folder"),
]


@pytest.mark.parametrize(("damage", "message"), BEFORE_LOADING)
def test_damage_is_one_line_before_any_weight_is_read(copied: Path, damage: Damage, message: str) -> None:
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        check_weights("model.target", copied)
    assert str(caught.value).startswith(f"model.target.path={copied}: ") and "\n" not in str(caught.value)


def _nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "override", "message"),
    [
        (_nothing, "model.target.dtype=int3", "unknown dtype 'int3' for the target; known: auto, fp32"),
        (_nothing, "dtype=fp8", "unknown dtype 'fp8' for the target"),
        (drop_safetensors, "", "no weights in this folder"),
        (_cut(_shard(2)), "", "model-00002-of-00005.safetensors is cut off"),
        (_remove(3), "", "model-00003-of-00005.safetensors is not there"),
        (_write(_named(SAFE_INDEX), b"{"), "", "model.safetensors.index.json is damaged"),
        (_config(model_type="unheard-of"), "", "model type `unheard-of`"),
        (_write(_named("config.json"), b'{"model_type": "bloom"}'), "", "its config names no max_position_embeddings"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "", "no tokenizer in this folder"),
    ],
)
def test_a_bad_checkpoint_ends_a_run_with_code_1_one_line_and_no_results(
    copied: Path, python_run: PythonRun, tmp_path: Path, damage: Damage, override: str, message: str
) -> None:
    damage(copied)
    paths = (f"model.target.path={copied}", f"model.draft.path={copied.parent / 'draft'}")
    code, out, err = python_run(*TOY, *paths, f"results_dir={tmp_path / 'results'}", *([override] if override else []))
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_change_in_any_shard_changes_the_hash(copied: Path) -> None:
    hashes = {content_hash(copied, CONTENT)}
    for file in shards(copied):
        changed = bytearray(file.read_bytes())
        changed[len(changed) // 2] ^= 1
        file.write_bytes(changed)
        hashes.add(content_hash(copied, CONTENT))
    assert len(hashes) == 1 + len(shards(copied))


def test_of_140_gb_only_headers_and_blocks_are_read(copied: Path) -> None:
    size = 28 * 10**9
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    start = len(header).to_bytes(8, "little") + header
    for file in shards(copied):  # with holes, which take no room on the disk
        file.write_bytes(start)
        os.truncate(file, len(start) + size)
    started = time.monotonic()
    check_weights("model.target", copied)
    before = content_hash(copied, CONTENT)
    with shards(copied)[3].open("r+b") as stream:
        stream.write(start.replace(b"U8", b"I8"))
    assert content_hash(copied, CONTENT) != before
    assert time.monotonic() - started < 20

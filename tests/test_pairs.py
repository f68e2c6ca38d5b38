"""The pairs of conf/model: what each YAML says of its two models agrees with the shapes, the manual and itself."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.runner import run
from mtad.loading import inspect_pair
from mtad.random_weights import SHAPES, find_shape
from mtad.sources import ModelSpec
from tests.toy import ROOT, settings_of

ROLES = ("target", "draft")
PAIRS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
OF_HUB = sorted(set(PAIRS) - {"tiny"})
SHAPE_FILES = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(SHAPES.glob("*.json"))]
BY_ID = {one: shape for shape in SHAPE_FILES for one in shape["ids"]}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
MANUAL = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@cache
def pair(name: str) -> dict[str, Any]:
    read = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml"), resolve=True)
    assert isinstance(read, dict)
    return {str(key): value for key, value in read.items()}


def shapes(name: str) -> list[dict[str, Any]]:
    return [BY_ID[pair(name)[role]["id"]] for role in ROLES]


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_says_where_it_comes_from_and_what_can_be_changed(name: str) -> None:
    said = pair(name)
    for role in ROLES:
        assert set(said[role]) == set(ModelSpec.__dataclass_fields__), "every key can be set on the command line"
        assert said["licence"][role] and said["citation"][role] and isinstance(said["gated"][role], bool)
        assert said[role]["revision"] is None or re.fullmatch(r"[0-9a-f]{40}", said[role]["revision"])


def test_one_model_has_the_same_facts_in_every_pair() -> None:
    facts: dict[str, set[tuple[Any, ...]]] = {}
    for name in OF_HUB:
        said = pair(name)
        for role in ROLES:
            one = (said[role]["revision"], said[role]["dtype"], *(said[key][role] for key in ("licence", "gated")))
            facts.setdefault(said[role]["id"], set()).add((*one, said["citation"][role]))
    assert {hub_id for hub_id, found in facts.items() if len(found) > 1} == set()


@pytest.mark.parametrize("name", OF_HUB)
def test_a_pair_is_of_one_vocabulary_and_as_long_as_the_shorter_model(name: str) -> None:
    target, draft = shapes(name)
    assert (target["vocabulary"], target["tokens"]) == (draft["vocabulary"], draft["tokens"])
    found = inspect_pair(*(ModelSpec(**{**pair(name)[role], "weights": "random"}) for role in ROLES))
    assert found.max_positions == min(one["config"]["max_position_embeddings"] for one in (target, draft))


def test_a_vocabulary_has_one_table_and_rows_for_every_token_of_it() -> None:
    tokens: dict[str, set[int]] = {}
    for shape in SHAPE_FILES:
        tokens.setdefault(shape["vocabulary"], set()).add(shape["tokens"])
        assert shape["tokens"] <= shape["config"]["vocab_size"] and shape["stored"] in BYTES
    assert all(len(sizes) == 1 for sizes in tokens.values())
    assert sum(len(shape["ids"]) for shape in SHAPE_FILES) == len(BY_ID), "an id in two files"


@pytest.mark.parametrize("hub_id", sorted(BY_ID))
def test_debug_size_has_the_family_and_head_size_of_the_whole(hub_id: str) -> None:
    whole, small = (find_shape("model.target", hub_id, scale).config for scale in (None, "debug"))
    sizes = [getattr(one, "head_dim", None) or one.hidden_size // one.num_attention_heads for one in (whole, small)]
    assert small.model_type == whole.model_type and sizes[0] == sizes[1] and small.num_hidden_layers == 2


@pytest.mark.parametrize("name", ["opt-66b", "qwen3-4b"])
def test_a_pair_runs_at_debug_size_with_random_weights(name: str, tmp_path: Path) -> None:
    asked = (f"model={name}", "model.weights=random", "model.scale=debug", "dtype=fp32", "task=toy", "reference=[]")
    run(settings_of(*asked, f"results_dir={tmp_path}", "limit=1", "max_new_tokens=4", "ignore_eos=true"))
    (row,) = (json.loads(line) for line in next(tmp_path.glob("*/*/samples.jsonl")).read_text().splitlines())
    assert len(row["token_ids"]) == 4


def test_a_pinned_commit_holds_for_the_repository_of_the_yaml_alone() -> None:
    def commits(*overrides: str) -> list[str | None]:
        settings = settings_of("model=llama2-7b", *overrides)
        recorded = [settings.config["model"][role]["revision"] for role in ROLES]
        assert recorded == [settings.target.revision, settings.draft.revision]
        return recorded

    target, draft = (pair("llama2-7b")[role]["revision"] for role in ROLES)
    assert target and draft and commits() == [target, draft]
    assert commits("model.draft.id=some/small") == [target, None]
    assert commits("model.draft.id=some/small", "model.draft.revision=v2") == [target, "v2"]
    assert commits("model.target.path=/models/large") == [None, draft]
    assert commits("model.target.revision=null", "model.draft.bits=8") == [None, draft]


@pytest.mark.parametrize("name", PAIRS)
def test_the_manual_lists_every_pair_with_its_facts(name: str) -> None:
    (line,) = re.findall(rf"^\| `{re.escape(name)}` \|.*$", MANUAL, re.MULTILINE)
    if name == "tiny":
        return
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    said, models = pair(name), shapes(name)
    assert cells[1:3] == [f"`{said[role]['id']}`" for role in ROLES]
    gigabytes = (
        shape["parameters"] * BYTES[said[role]["dtype"]] / 1e9 for role, shape in zip(ROLES, models, strict=True)
    )
    assert cells[3] == " + ".join(f"{one:.1f}" for one in gigabytes)
    assert int(cells[4].replace(",", "")) == min(one["config"]["max_position_embeddings"] for one in models)
    assert (cells[5] == "yes") == any(said["gated"].values())
    for role in ROLES:
        assert f"| `{said[role]['id']}` | `{said[role]['revision'][:8]}` | {said['citation'][role]} |" in MANUAL

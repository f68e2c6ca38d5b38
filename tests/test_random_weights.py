"""Random weights: shapes are the published ones, numbers of a trained scale, and every table says what it shows."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn
from transformers import AutoModelForCausalLM

from experiments.judge import find_judge
from experiments.report.results import Run
from experiments.report.setting import same_pair
from experiments.runner import run
from experiments.table import print_table
from mtad import hub
from mtad.errors import UserError
from mtad.loading import Blueprint, inspect_pair, speller
from mtad.random_weights import LAST_NORMS, SHAPES, find_shape, random_model
from mtad.sources import ModelSpec
from tests.test_run import options
from tests.toy import ROOT, settings_of

CPU = torch.device("cpu")
FILES = {file.stem: json.loads(file.read_text()) for file in sorted(SHAPES.glob("*.json"))}


def drawn(hub_id: str, **changes: Any) -> ModelSpec:
    return ModelSpec(hub_id, **{"weights": "random", "scale": "debug", **changes})


def pair(target: str = "meta-llama/Llama-2-70b-hf", draft: str = "JackFram/llama-68m", **changes: Any) -> Blueprint:
    return inspect_pair(drawn(target, **changes), drawn(draft, **changes))


@pytest.mark.parametrize("name", FILES)
def test_a_shape_has_the_published_number_of_parameters(name: str) -> None:
    config = find_shape("model.target", FILES[name]["ids"][0]).config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == FILES[name]["parameters"]


def test_every_pair_of_the_configuration_but_the_embedded_one_has_shapes() -> None:
    for name in set(options("model")) - {"tiny"}:
        yaml = OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml")
        yaml["weights"] = "random"
        target, draft = (ModelSpec(**OmegaConf.to_container(yaml, resolve=True)[role]) for role in ("target", "draft"))
        blueprint = inspect_pair(target, draft)
        assert blueprint.vocabulary == blueprint.target.config.vocab_size == blueprint.draft.config.vocab_size


@pytest.mark.parametrize("hub_id", ["meta-llama/Llama-3.2-1B", "meta-llama/Llama-2-70b-hf", "facebook/opt-13b"])
def test_numbers_are_of_a_trained_scale_and_the_same_at_every_start(hub_id: str) -> None:
    config = find_shape("model.target", hub_id, "debug").config
    model = random_model(config, torch.float32, CPU).eval()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05) and abs(parameter.mean().item()) < 1e-3
        elif name in LAST_NORMS:
            assert parameter.unique().item() == pytest.approx(4 / 0.02 / math.sqrt(config.hidden_size))
        else:
            assert set(parameter.unique().tolist()) == {0.0 if name.endswith("bias") else 1.0}
    built = AutoModelForCausalLM.from_config(config)
    assert all(torch.equal(*two) for two in zip(model.buffers(), built.buffers(), strict=True))  # rotary frequencies
    with torch.inference_mode():
        logits = model(torch.arange(3000, 3012)[None]).logits
        again = random_model(config, torch.float32, CPU).eval()(torch.arange(3000, 3012)[None]).logits
    assert torch.equal(logits, again)
    logp = logits[0].log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    assert logits.std(-1).mean().item() == pytest.approx(4, rel=0.1)
    assert 2 < entropy.mean() < 0.6 * math.log(config.vocab_size)  # neither settled nor uniform


@pytest.mark.parametrize(
    ("hub_id", "dtype"), [("meta-llama/Llama-2-70b-hf", torch.bfloat16), ("facebook/opt-66b", torch.float16)]
)
def test_through_all_layers_of_a_deep_model_numbers_neither_vanish_nor_explode(hub_id: str, dtype: torch.dtype) -> None:
    config = find_shape("model.target", hub_id, "debug").config
    config.num_hidden_layers = find_shape("model.target", hub_id).config.num_hidden_layers
    model = random_model(config, dtype, CPU).eval()
    with torch.inference_mode():
        output = model(torch.arange(3000, 3012)[None], output_hidden_states=True)
    sizes = [states.float().std().item() for states in output.hidden_states[:-1]]  # the last is normed
    assert sizes[0] < sizes[-1] < 100 * sizes[1]
    assert output.logits.isfinite().all() and output.logits.float().std(-1).mean().item() == pytest.approx(4, rel=0.1)


def test_the_parts_of_a_model_are_drawn_where_they_are_to_be_and_quantized_one_at_a_time() -> None:
    config = find_shape("model.target", "facebook/opt-13b", "debug").config
    seen: list[int] = []

    def quantize(layer: nn.Module) -> None:
        drawn = [not parameter.is_meta for parameter in layer.parameters()]
        seen.append(sum(drawn) - len(drawn))

    whole = random_model(config, torch.float32, CPU).state_dict()
    places = dict.fromkeys([f"model.decoder.layers.{i}" for i in range(2)], CPU)
    parts = ("embed_tokens", "embed_positions", "final_layer_norm")
    places |= dict.fromkeys([*(f"model.decoder.{part}" for part in parts), "lm_head"], CPU)
    parted = random_model(config, torch.float32, places, quantize)
    assert seen == [0, 0]  # each layer once, and drawn by then
    assert all(torch.equal(whole[name], tensor) for name, tensor in parted.state_dict().items())
    assert parted.get_output_embeddings().weight is parted.get_input_embeddings().weight
    assert parted(torch.arange(9)[None]).logits.isfinite().all()


def test_layers_quantized_as_they_are_drawn_stay_near_the_drawn_numbers() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    config = find_shape("model.target", "JackFram/llama-68m", "debug").config

    def quantize(layer: nn.Module) -> None:
        quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())

    models = [random_model(config, torch.bfloat16, CPU, change).eval() for change in (None, quantize)]
    with torch.inference_mode():
        plain, quantized = (model(torch.arange(12)[None]).logits.float() for model in models)
    assert (plain - quantized).abs().max() > 0 and (plain - quantized).std() < 0.1 * plain.std()


@pytest.mark.parametrize("hub_id", ["Qwen/Qwen3-4B-Base", "HuggingFaceTB/SmolLM2-135M"])
def test_heads_of_their_own_size_and_odd_numbers_of_them_shrink_too(hub_id: str) -> None:
    whole, small = (find_shape("model.target", hub_id, scale).config for scale in (None, "debug"))
    model = random_model(small, torch.float32, CPU).eval()
    with torch.inference_mode():
        logits = model(torch.arange(12)[None]).logits
    assert logits.shape[-1] == whole.vocab_size and logits.isfinite().all()
    assert logits.std(-1).mean().item() == pytest.approx(4, rel=0.15)


def test_debug_size_keeps_the_vocabulary_the_heads_size_and_their_grouping() -> None:
    whole, small = (find_shape("model.target", "meta-llama/Llama-2-70b-hf", scale).config for scale in (None, "debug"))
    assert (small.num_hidden_layers, small.num_attention_heads, small.num_key_value_heads) == (2, 2, 1)
    assert small.hidden_size // 2 == whole.hidden_size // whole.num_attention_heads == 128
    assert (small.vocab_size, small.intermediate_size) == (32000, 896)


def test_a_random_pair_is_found_without_the_hub_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("no access to the hub is needed")

    monkeypatch.setattr(hub, "commit_of", refuse)
    monkeypatch.setattr("mtad.sources.commit_of", refuse)
    found = pair(dtype="bf16")
    origin = found.origins["target"]
    assert (origin.id, origin.folder, origin.dtype) == (None, None, "bfloat16")
    assert origin.random == "meta-llama/Llama-2-70b-hf, debug size" and str(origin.sha256).endswith("seed 0")
    assert (found.vocabulary, found.eos, found.max_positions) == (32000, {2}, 2048)
    loaded = found.load()
    assert loaded.target.lm.dtype == torch.bfloat16 and loaded.target.vocabulary == 32000
    assert inspect_pair(drawn("meta-llama/Llama-3.1-8B"), drawn("meta-llama/Llama-3.2-1B")).eos == {128001}


def test_tokens_beyond_the_stand_in_tokenizer_spell_nothing_and_do_no_harm() -> None:
    spell = speller(pair().tokenizer)
    assert spell([31999, 3072]) == "" and spell([500, 31999, 501]) == spell([500, 501]) != ""


def test_one_model_alone_can_be_random_and_takes_the_tokenizer_of_the_other() -> None:
    found = inspect_pair(ModelSpec(path="mtad/tiny/target"), drawn("facebook/opt-125m"))
    assert found.vocabulary == 3072 and found.origins["target"].random is None
    assert settings_of("model=llama2-7b", "model.draft.weights=random").model == "llama2-7b-random-draft"
    assert settings_of("model=llama2-7b", "model.weights=random").model == "llama2-7b-random"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "zero"}, "model.target.weights must be null or random, not 'zero'"),
        ({"weights": None}, "model.target.scale=debug is of random weights alone"),
        ({"scale": "huge"}, "model.target.scale must be null or debug, not 'huge'"),
        ({"path": "mtad/tiny/target"}, "model.target.weights=random takes the shape of a hub id, and there is .*path="),
        ({"id": None}, "model.target.weights=random takes the shape of a hub id: give model.target.id"),
        ({"id": "nobody/nothing"}, "knows no shape of nobody/nothing; it knows .*llama-68m"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(changes: dict[str, Any], message: str) -> None:
    spec = ModelSpec(**{**vars(drawn("meta-llama/Llama-2-7b-hf")), **changes})
    with pytest.raises(UserError, match=message) as caught:
        inspect_pair(spec, drawn("JackFram/llama-68m"))
    assert "\n" not in str(caught.value)


def test_random_weights_are_no_judge() -> None:
    with pytest.raises(UserError, match=r"judge.weights=random: only weights that were trained can judge"):
        find_judge(drawn("JackFram/llama-68m"), CPU)


def test_shapes_of_two_vocabularies_are_no_pair() -> None:
    with pytest.raises(UserError, match="two vocabularies: 32000 tokens, and 50272 for draft facebook/opt-125m"):
        pair(draft="facebook/opt-125m")


def test_a_run_with_random_weights_is_a_stand_in_wherever_it_is_shown(tmp_path: Path) -> None:
    asked = ("model=llama2-13b", "model.weights=random", "model.scale=debug", "dtype=fp32", "task=toy", "reference=[]")
    run(settings_of(*asked, f"results_dir={tmp_path}", "limit=1", "max_new_tokens=4", "ignore_eos=true"))
    (folder,) = (tmp_path / "llama2-13b-random-debug-toy-mtad").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert "weights: random" in (folder / "config.yaml").read_text()
    assert not same_pair(["llama2-13b"], summary)
    words = "random weights in the shape of meta-llama/Llama-2-13b-hf, debug size and JackFram/llama-68m, debug size"
    assert Run("run", folder, summary).stand_in == words
    shown = io.StringIO()
    print_table(summary, Console(file=shown))
    assert f"STAND-IN: {words}" in " ".join(shown.getvalue().split())
    (process,) = json.loads((folder / "environment.json").read_text())["processes"]
    told = process["memory"]
    assert told["peak_bytes"]["run"] >= told["peak_bytes"]["texts"] > sum(told["forecast"]["weights"].values())
    assert summary["memory"]["peak_bytes"] == told["peak_bytes"]["run"]

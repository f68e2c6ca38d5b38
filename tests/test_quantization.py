"""Weights in 8 and 4 bits: really quantized on the CPU, said in records, and refused where it cannot be done."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from experiments.runner import run
from mtad import quantization
from mtad.errors import UserError
from mtad.loading import inspect_pair, load_pair
from mtad.quantization import find_quantization, is_quantized
from mtad.sources import ModelSpec
from tests.helpers import from_yaml, write
from tests.toy import toy_settings

CPU = torch.device("cpu")
WAYS = [(8, "torchao"), (8, "bitsandbytes"), (4, "bitsandbytes")]


def specs(pair: Path, bits: int | None, quantizer: str | None = None) -> tuple[ModelSpec, ModelSpec]:
    return ModelSpec(path=str(pair / "target"), bits=bits, quantizer=quantizer), ModelSpec(path=str(pair / "draft"))


@pytest.mark.parametrize("family", ["sharded_llama", "sharded_opt"])
@pytest.mark.parametrize(("bits", "quantizer"), WAYS)
def test_a_quantized_target_is_near_the_whole_one_and_not_the_same(
    family: str, bits: int, quantizer: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    whole, fewer = load_pair(*specs(folder, None), "cpu"), load_pair(*specs(folder, bits, quantizer), "cpu")
    assert is_quantized(fewer.target.lm) and not is_quantized(fewer.draft.lm) and not is_quantized(whole.target.lm)
    text = ([2, 3, 4], [5, 6, 7, 8])
    near, exact = (pair.target.score([text])[0].log_likelihoods for pair in (fewer, whole))
    assert 1e-4 < abs(near - exact).max() < (0.3 if bits == 8 else 3)
    said = str(fewer.origins["target"])
    assert quantizer in said and fewer.origins["draft"].quantized is None


@pytest.mark.parametrize(("bits", "quantizer"), WAYS)
def test_a_quantized_model_reads_with_a_cache_what_it_reads_without(
    sharded_llama: Path, bits: int, quantizer: str
) -> None:
    pair = load_pair(*specs(sharded_llama, bits, quantizer), "cpu")
    output = write(from_yaml("autoregressive"), pair.target, pair.draft, prompt=(2, 3, 4), limit=6)
    assert pair.target.fallback == "forwards run eagerly: its weights are quantized"
    mtad = write(from_yaml("mtad", tau=1.0), pair.target, pair.draft, prompt=(2, 3, 4), limit=6)
    assert mtad.tokens == output.tokens  # nothing is accepted, so every token is drawn from the law after a tree


@pytest.mark.parametrize(("bits", "quantizer"), WAYS)
def test_random_weights_are_quantized_layer_by_layer(bits: int, quantizer: str) -> None:
    def drawn(hub_id: str, **more: object) -> ModelSpec:
        return ModelSpec(hub_id, weights="random", scale="debug", **more)  # type: ignore[arg-type]

    target = drawn("meta-llama/Llama-2-13b-hf", bits=bits, quantizer=quantizer)
    pair = inspect_pair(target, drawn("JackFram/llama-68m")).load()
    assert is_quantized(pair.target.lm.get_decoder().layers[1])
    assert not is_quantized(pair.target.lm.get_output_embeddings())
    assert len(write(from_yaml("autoregressive"), pair.target, pair.draft, prompt=(2, 3, 4), limit=6).tokens) == 6


def test_the_first_quantizer_that_can_do_it_here_is_taken() -> None:
    eight = find_quantization("model.target", 8, None, torch.float32, CPU)
    four = find_quantization("model.target", 4, None, torch.float32, CPU)
    assert eight and eight.quantizer == "torchao" and str(eight).startswith("int8 weights (torchao ")
    assert four and four.quantizer == "bitsandbytes" and str(four).startswith("NF4 (bitsandbytes ")
    assert find_quantization("model.target", None, None, torch.float32, CPU) is None


def test_where_no_quantizer_is_installed_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        return None if name in ("torchao", "bitsandbytes") else find_spec(name)

    monkeypatch.setattr(quantization, "find_spec", absent)
    with pytest.raises(UserError, match=r"bits=8 cannot be done here: torchao is not installed"):
        find_quantization("model.target", 8, None, torch.float32, CPU)


@pytest.mark.parametrize(
    ("bits", "quantizer", "message"),
    [
        (3, None, r"model.draft.bits must be null, 8 or 4, not 3"),
        (8, "gptq", r"model.draft.quantizer must be null, torchao or bitsandbytes, not 'gptq'"),
        (None, "torchao", r"has nothing to do without model.draft.bits"),
        (4, "torchao", r"torchao's 4 bits need a CUDA device"),
    ],
)
def test_what_cannot_be_done_is_one_line(bits: int | None, quantizer: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_quantization("model.draft", bits, quantizer, torch.bfloat16, CPU)


def test_rows_and_the_table_of_a_run_say_how_weights_were_quantized(
    sharded_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(toy_settings(sharded_llama, tmp_path, "model.target.bits=8", "limit=1", "reference=[]"))
    (samples,) = tmp_path.glob("target+draft-8bit-target-toy-*/*/samples.jsonl")
    weights = json.loads(samples.read_text().splitlines()[0])["weights"]
    assert (
        weights["target"].startswith("target, float32, int8 weights (torchao ") and weights["draft"] == "draft, float32"
    )
    assert "weights in fewer bits: target: int8 weights (torchao " in capsys.readouterr().out

"""What is computed from a configuration is what a model then takes: weights, caches, and the work of a forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from mtad.cache import TreeCache
from mtad.footprint import (
    SCORED,
    Reading,
    cache_bytes,
    count_weights,
    packed_bytes,
    spread,
    without_numbers,
    workspace,
)
from mtad.packed import pack
from mtad.random_weights import find_shape, random_model
from mtad.recorded import Step
from tests.live_bytes import LiveBytes

CPU, META = torch.device("cpu"), torch.device("meta")
BF16 = torch.bfloat16
LLAMA, OPT, TIED = "meta-llama/Llama-2-70b-hf", "facebook/opt-13b", "meta-llama/Llama-3.2-1B"
DRAFT = "JackFram/llama-68m"


def config_of(hub_id: str, scale: str | None = None, layers: int | None = None) -> Any:
    config = find_shape("model.target", hub_id, scale).config
    if layers:
        config.num_hidden_layers = layers
    return config


def held(model: nn.Module) -> int:
    """Bytes of all tensors of a model, of quantized ones what they consist of; tied ones once."""
    total = 0
    for tensor in (*model.parameters(), *model.buffers()):
        if hasattr(tensor, "__tensor_flatten__"):  # of torchao
            names, _ = tensor.__tensor_flatten__()
            total += sum(getattr(tensor, name).nbytes for name in names if getattr(tensor, name) is not None)
            continue
        total += tensor.nbytes
        state = getattr(tensor, "quant_state", None)  # of bitsandbytes, as is SCB
        extra = [state.absmax, state.code] if state else [getattr(tensor, "SCB", None)]
        total += sum(one.nbytes for one in extra if one is not None)
    return total


@pytest.mark.parametrize(
    ("hub_id", "dtype"), [(LLAMA, BF16), (OPT, torch.float16), (TIED, BF16), (DRAFT, torch.float32)]
)
def test_weights_are_counted_to_the_byte(hub_id: str, dtype: torch.dtype) -> None:
    config = config_of(hub_id, "debug")
    model = random_model(config, dtype, CPU)
    found = count_weights(config, dtype)
    assert found.total == held(model)
    assert found.layers == tuple(held(layer) for layer in model.get_decoder().layers)
    tied = config.tie_word_embeddings
    assert (found.head < 10_000) == tied  # a tied head is counted with the embeddings


def test_the_largest_shapes_are_counted_whole() -> None:
    for hub_id, parameters in ((LLAMA, 68_976_648_192), ("facebook/opt-66b", 65_719_701_504)):
        assert count_weights(config_of(hub_id), BF16).total == pytest.approx(2 * parameters, rel=1e-6)


@pytest.fixture(scope="module", params=[LLAMA, OPT])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A configuration, and the folder of a model of it."""
    config, folder = config_of(request.param, "debug"), tmp_path_factory.mktemp("saved")
    random_model(config, BF16, CPU).save_pretrained(folder)
    return config, folder


@pytest.mark.parametrize(("quantizer", "bits"), [("torchao", 8), ("bitsandbytes", 8), ("bitsandbytes", 4)])
def test_quantized_weights_are_counted_as_the_backends_hold_them(
    saved: tuple[Any, Path], quantizer: str, bits: int
) -> None:
    pytest.importorskip(quantizer)
    config, folder = saved
    if quantizer == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        how: Any = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        how = BitsAndBytesConfig(**(four if bits == 4 else {"load_in_8bit": True}))
    place = None if quantizer == "torchao" else {"": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=BF16, quantization_config=how, device_map=place)
    layers = sum(held(layer) for layer in model.get_decoder().layers)
    found = count_weights(config, BF16, bits, quantizer)
    assert sum(found.layers) == pytest.approx(layers, rel=0.005)
    assert found.total == pytest.approx(held(model), rel=0.001)


def test_four_bits_of_torchao_take_half_a_byte_and_their_scales() -> None:
    whole, four = (count_weights(config_of(LLAMA), BF16, bits, "torchao") for bits in (None, 4))
    assert four.layers[0] == pytest.approx(whole.layers[0] / 4 * (1 + 1 / 16), rel=0.001)
    assert (four.embeddings, four.head) == (whole.embeddings, whole.head)


def test_a_cache_is_counted_to_the_byte_and_shared_among_ranks() -> None:
    config = config_of(LLAMA, "debug")
    model = random_model(config, BF16, CPU)
    cache = TreeCache([CPU] * 2, rows=3)
    cache.reserve(300)
    one = torch.zeros(3, 1, dtype=torch.int64)
    with torch.inference_mode():
        sees = torch.ones(3, 1, 1, dtype=torch.bool)
        cache.take_aim(0, 3)
        Step(model, cache)(one, one, one[:, 0], sees)
    assert cache.nbytes == 2 * 3 * cache.capacity * cache_bytes(config, BF16)
    assert [cache_bytes(config_of(LLAMA), BF16, ranks) for ranks in (1, 2, 16)] == [4096, 2048, 512]


@pytest.fixture
def bare_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention whose kernel makes its result alone, as those of a GPU do."""
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))


def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, device=META)


@pytest.mark.parametrize("hub_id", [LLAMA, OPT, TIED, DRAFT, "facebook/opt-125m"])
@pytest.mark.parametrize(("rows", "tokens", "end"), [(1, 512, 1280), (1, 512, 2048), (4, 64, 1280)])
def test_the_workspace_of_a_read_is_within_a_tenth(
    bare_attention: None, hub_id: str, rows: int, tokens: int, end: int
) -> None:
    config = config_of(hub_id, layers=2)
    cache = TreeCache([META] * 2, rows)
    cache.reserve(end - 1)
    step = Step(without_numbers(config, BF16), cache)
    with torch.inference_mode():
        cache.take_aim(0, rows)
        one = zeros(rows, 1)
        step(one, one, one[:, 0], zeros(rows, 1, 1, dtype=torch.bool))  # makes the cache
        ids, sees = zeros(rows, tokens), zeros(rows, tokens, end - 1, dtype=torch.bool)
        slabs = cache.take_aim(0, rows)
        with LiveBytes() as live:
            step(ids, ids, zeros(rows * tokens), sees, *slabs)
    foreseen = workspace(config, BF16, Reading(rows, tokens, end, rows * tokens, 0))
    assert foreseen.peak == pytest.approx(live.most, rel=0.1)


@pytest.mark.parametrize("hub_id", [LLAMA, OPT, TIED, DRAFT, "facebook/opt-125m"])
@pytest.mark.parametrize(("texts", "tokens", "new"), [(16, 256, 128), (1, 2000, 128), (4, 1024, 512)])
def test_the_workspace_of_scoring_is_within_a_tenth(
    bare_attention: None, hub_id: str, texts: int, tokens: int, new: int
) -> None:
    config = config_of(hub_id, layers=2)
    model, ids = without_numbers(config, BF16), zeros(texts, tokens)
    mask = zeros(texts, 1, tokens, tokens, dtype=torch.bool)
    with torch.inference_mode(), LiveBytes() as live:
        output = model(input_ids=ids, position_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=new)
        torch.log_softmax(output.logits[0].double(), dim=-1)
    foreseen = workspace(config, BF16, Reading(texts, tokens, tokens, texts * new, new * SCORED))
    assert foreseen.peak == pytest.approx(live.most, rel=0.1)


def test_what_recorded_forwards_copy_is_foreseen() -> None:
    config = config_of(DRAFT, "debug")
    twins = pack(random_model(config, torch.float32, CPU))
    copied = sum(twin.packed.numel() * 4 for children in twins.values() for twin in children.values())
    assert packed_bytes(config, torch.float32) == copied > 0
    assert packed_bytes(config_of(LLAMA), BF16) == 0  # too large to be copied


def test_layers_over_devices_sum_up_to_the_whole() -> None:
    found = count_weights(config_of(LLAMA), BF16)
    places = ["cuda:0"] * 39 + ["cuda:1"] * 41
    shares = spread(found, 1000, places)
    assert sum(shares.values()) == found.total + 80 * 1000
    assert shares["cuda:1"] == 41 * (found.layers[0] + 1000) + found.head

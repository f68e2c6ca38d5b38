"""Where models go: which device gets which part, and what is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from mtad.errors import UserError
from mtad.model import CausalModel
from mtad.placement import ON_CPU, Placement, device_map_of, find_placement, layer_devices
from mtad.random_weights import find_shape, random_model
from tests.fakes import VOCABULARY
from tests.helpers import from_yaml, write

GPUS = [torch.device("cuda", i) for i in range(4)]
CPU = torch.device("cpu")


def skeleton(hub_id: str) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(find_shape("model.target", hub_id, "debug").config)


def test_layers_fill_devices_in_proportion_to_their_memory() -> None:
    assert layer_devices([1] * 8, 0, 0, GPUS[:2], [1, 1]) == [GPUS[0]] * 4 + [GPUS[1]] * 4
    assert layer_devices([1] * 9, 0, 0, GPUS[:2], [2, 1]) == [GPUS[0]] * 6 + [GPUS[1]] * 3


def test_what_stands_beside_layers_counts() -> None:
    with_draft = layer_devices([1] * 10, 1, 5, GPUS[:2], [1, 1])
    assert with_draft == [GPUS[0]] * 7 + [GPUS[1]] * 3  # 1 + 7 against 3 + 5
    assert layer_devices([1] * 10, 1, 1, GPUS, [1] * 4) == [GPUS[i] for i in (0, 0, 1, 1, 1, 2, 2, 2, 3, 3)]


@pytest.mark.parametrize("hub_id", ["meta-llama/Llama-2-70b-hf", "facebook/opt-66b", "Qwen/Qwen3-4B-Base"])
def test_every_part_of_a_model_has_a_device_and_stands_by_its_neighbours(hub_id: str) -> None:
    model = skeleton(hub_id)
    places = device_map_of(model, GPUS[:2])
    for name, _ in model.named_parameters():
        assert sum(name.startswith(f"{part}.") for part in places) == 1, name
    tied = model.config.tie_word_embeddings
    assert places["lm_head"] == (GPUS[0] if tied else GPUS[1])
    of_embeddings = {device for part, device in places.items() if "embed" in part}
    of_norms = {device for part, device in places.items() if "norm" in part}
    assert of_embeddings == {GPUS[0]} and of_norms == {GPUS[1]}


@pytest.mark.parametrize("hub_id", ["meta-llama/Llama-2-70b-hf", "facebook/opt-66b"])
def test_a_model_put_together_from_placed_parts_writes_what_the_whole_one_writes(hub_id: str) -> None:
    config = find_shape("model.target", hub_id, "debug").config
    whole = CausalModel(random_model(config, torch.float32, CPU), VOCABULARY)
    parts = random_model(config, torch.float32, device_map_of(skeleton(hub_id), [CPU, CPU]))
    assert "_hf_hook" in vars(parts.get_decoder().layers[1]), "accelerate moves nothing here"
    placed = CausalModel(parts, VOCABULARY)
    decoder = from_yaml("autoregressive")
    assert write(decoder, placed, placed).tokens == write(decoder, whole, whole).tokens


def test_by_default_everything_is_on_one_device() -> None:
    found = find_placement("cpu")
    assert found == ON_CPU and found.single and str(found) == "cpu"


def test_a_placement_says_where_both_models_are() -> None:
    spread = Placement((GPUS[0], GPUS[1]), GPUS[1])
    assert str(spread) == "target on cuda:0, cuda:1; draft on cuda:1"
    assert spread.all == (GPUS[0], GPUS[1]) and not spread.single
    assert str(Placement((GPUS[0],), GPUS[0], 8)) == "target on 8 processes; draft on cuda:0"


def test_with_several_gpus_the_draft_is_beside_the_last_layer_or_has_one_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert find_placement("auto", "auto") == Placement(tuple(GPUS), GPUS[3])
    assert find_placement("auto", "auto", "cuda:3") == Placement(tuple(GPUS[:3]), GPUS[3])
    assert find_placement("auto", ["cuda:2", "cuda:1"]) == Placement((GPUS[2], GPUS[1]), GPUS[1])
    assert find_placement("cuda:1", None, "cuda:0") == Placement((GPUS[1],), GPUS[0])
    with pytest.raises(UserError, match="device=cuda:1 and device_map are two answers"):
        find_placement("cuda:1", ["cuda:0", "cuda:2"])
    with pytest.raises(UserError, match="device_map=cuda:7: there are only 4 CUDA devices"):
        find_placement("auto", ["cuda:0", "cuda:7"])
    with pytest.raises(UserError, match="name devices of two kinds"):
        find_placement("auto", "auto", "cpu")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device_map": "auto"}, "torch sees none"),
        ({"device_map": ["cpu", "cpu"]}, "names a device twice"),
        ({"device_map": ["cuda:0"]}, "device_map=cuda:0: torch sees no CUDA device"),
        ({"draft_device": "cuda:1"}, "draft_device=cuda:1: torch sees no CUDA device"),
        ({"tp_plan": "auto"}, r"needs torchrun --nproc_per_node=N"),
        ({"tp_plan": "auto", "device_map": "auto"}, "leave one of them out"),
    ],
)
def test_what_cannot_be_had_here_is_one_line(asked: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find_placement("auto", **asked)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)

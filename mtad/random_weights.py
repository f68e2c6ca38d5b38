"""Random weights in the exact shape of a published model: what costs depend on, for whom cannot have the real ones.

`mtad/shapes` holds the numbers of public configurations. Matrices are normal with the standard deviation s that their
configuration trains from (0.02), norms are 1 and biases 0, but for the last norm: it is 4 / (s sqrt(h)), h the hidden
size. By it the logits of every model spread by 4 and its laws over 32 to 128 thousand tokens have about 5 nats, neither
uniform nor settled, so that warping, top-p above all, works on laws of the usual kind. Hidden states need no such rule:
they grow by the root of the depth. What such a model writes means nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import dispatch_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from mtad.errors import UserError
from mtad.folders import PACKAGE, content_hash

SHAPES = PACKAGE / "shapes"
SEED = 0
SCALES = ("debug",)
DEBUG_LAYERS = DEBUG_HEADS = 2
DEBUG_MULTIPLE = 64
LOGITS = 4.0  # their standard deviation over the vocabulary
LAST_NORMS = ("model.norm.weight", "model.decoder.final_layer_norm.weight")


@dataclass(frozen=True)
class Shape:
    """The shape of a published model.

    Attributes:
        name: the hub id, and the scale if it is not the whole.
        config: of Hugging Face.
        sha256: over all that decides the weights.
    """

    name: str
    config: Any
    sha256: str


def find_shape(key: str, hub_id: str | None, scale: str | None = None) -> Shape:
    """The shape of the model with this hub id; `key` is where the user named it.

    Args:
        scale: None for the whole model; debug leaves two layers of two heads, and the vocabulary whole.

    Raises:
        UserError: there is no such shape or scale.
    """
    if scale not in (None, *SCALES):
        raise UserError(f"{key}.scale must be null or debug, not {scale!r}")
    files = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(SHAPES.glob("*.json"))}
    for file, shape in files.items():
        if hub_id in shape["ids"]:
            numbers = dict(shape["config"])
            config = AutoConfig.for_model(numbers.pop("model_type"), **(_shrunk(numbers) if scale else numbers))
            name = f"{hub_id}, {scale} size" if scale else str(hub_id)
            return Shape(name, config, f"{content_hash(file)}, logits of spread {LOGITS:g}, seed {SEED}")
    known = ", ".join(one for shape in files.values() for one in shape["ids"])
    raise UserError(f"{key}.weights=random knows no shape of {hub_id}; it knows {known}")


def _shrunk(numbers: dict[str, Any]) -> dict[str, Any]:
    """Two layers and two heads of the same size, grouped if they were; the feed-forward layer in proportion.

    Widths are rounded up to what kernels of quantized weights divide by.
    """
    heads = numbers["num_attention_heads"]
    for key in ("hidden_size", "word_embed_proj_dim", "intermediate_size", "ffn_dim"):
        if key in numbers:
            numbers[key] = -(-numbers[key] * DEBUG_HEADS // heads // DEBUG_MULTIPLE) * DEBUG_MULTIPLE
    if "num_key_value_heads" in numbers:
        numbers["num_key_value_heads"] = DEBUG_HEADS if numbers["num_key_value_heads"] == heads else 1
    return {**numbers, "num_attention_heads": DEBUG_HEADS, "num_hidden_layers": DEBUG_LAYERS}


@torch.no_grad()
def random_model(
    config: Any,
    dtype: torch.dtype,
    where: torch.device | Mapping[str, torch.device],
    quantize: Callable[[nn.Module], None] | None = None,
) -> Any:
    """A model of this shape, made where it is used: nothing of it is ever held elsewhere.

    The same numbers come at every start, on one kind of device, placement and version of torch.

    Args:
        where: one device, or a device by the name of each part, as in accelerate's `device_map`; accelerate then
            moves what passes from part to part.
        quantize: done in place to each decoder layer once it is drawn, so that one at most is there in `dtype`.
    """
    places = {"": where} if isinstance(where, torch.device) else where
    with next(iter(places.values())), no_init_weights(), _parameters_on_meta():  # buffers are filled all the same
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    layers = model.get_decoder().layers
    ends = {id(list(layer.parameters())[-1]): layer for layer in layers} if quantize else {}
    draws = {
        device: torch.Generator(device).manual_seed(SEED + number)
        for number, device in enumerate(dict.fromkeys(places.values()))
    }
    for name, parameter in list(model.named_parameters()):  # tied ones come once
        device = _place(name, places)
        drawn = torch.empty(parameter.shape, dtype=dtype, device=device)
        _fill(drawn, name, config, draws[device])
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, nn.Parameter(drawn, requires_grad=False))
        if quantize and id(parameter) in ends:
            quantize(ends[id(parameter)])
    model.tie_weights()
    if len(places) > 1:
        model = dispatch_model(model, device_map=dict(places), force_hooks=True)
    return model


def _fill(numbers: torch.Tensor, name: str, config: Any, draws: torch.Generator) -> None:
    """Draw one parameter, in place; see the module's rule."""
    spread = config.init_std if config.model_type == "opt" else config.initializer_range
    if numbers.dim() > 1:
        numbers.normal_(0.0, spread, generator=draws)
    elif name.endswith("bias"):
        numbers.zero_()
    else:
        numbers.fill_(LOGITS / (spread * math.sqrt(config.hidden_size)) if name in LAST_NORMS else 1.0)


def _place(name: str, places: Mapping[str, torch.device]) -> torch.device:
    """The device of the part that holds this parameter."""
    part = name
    while part not in places:
        part = part.rpartition(".")[0]
    return places[part]


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Meanwhile parameters take no memory once their module has them; buffers are real."""
    register = nn.Module.register_parameter

    def without_numbers(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        empty = None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, empty)

    nn.Module.register_parameter = without_numbers  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]

"""Random weights in the exact shape of a published model: what costs depend on, for whom cannot have the real ones.

`mtad/shapes` holds the numbers of public configurations. Matrices are normal with the standard deviation that their
configuration trains from (0.02), norms are 1 and biases 0. With that the logits of hidden size h spread by 0.02
sqrt(h): 0.6 for a draft of 68 M parameters, 1.8 for one of 70 B, neither constant nor exploding, so that warping and
attention work on numbers of the usual size. What such a model writes means nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from mtad.errors import UserError
from mtad.folders import PACKAGE, content_hash

SHAPES = PACKAGE / "shapes"
SEED = 0
SCALES = ("debug",)
DEBUG_LAYERS = DEBUG_HEADS = 2


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
            return Shape(name, config, f"{content_hash(file)}, seed {SEED}")
    known = ", ".join(one for shape in files.values() for one in shape["ids"])
    raise UserError(f"{key}.weights=random knows no shape of {hub_id}; it knows {known}")


def _shrunk(numbers: dict[str, Any]) -> dict[str, Any]:
    """Two layers and two heads of the same size, grouped if they were; the feed-forward layer in proportion."""
    heads = numbers["num_attention_heads"]
    for key in ("hidden_size", "word_embed_proj_dim", "intermediate_size", "ffn_dim"):
        if key in numbers:
            numbers[key] = numbers[key] * DEBUG_HEADS // heads
    if "num_key_value_heads" in numbers:
        numbers["num_key_value_heads"] = DEBUG_HEADS if numbers["num_key_value_heads"] == heads else 1
    return {**numbers, "num_attention_heads": DEBUG_HEADS, "num_hidden_layers": DEBUG_LAYERS}


@torch.no_grad()
def random_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of this shape, made where it is used: nothing of it is ever held elsewhere.

    The same numbers come at every start, on one kind of device and version of torch.
    """
    with torch.device(device), no_init_weights():  # buffers, such as rotary frequencies, are filled all the same
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    draws = torch.Generator(device).manual_seed(SEED)
    spread = config.init_std if config.model_type == "opt" else config.initializer_range
    for name, parameter in model.named_parameters():  # tied ones come once
        if parameter.dim() > 1:
            parameter.normal_(0.0, spread, generator=draws)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model

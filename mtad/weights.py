"""Reading weights: by transformers, onto the devices where they belong, without being held elsewhere on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mtad.errors import UserError, first_line
from mtad.placement import device_map_of
from mtad.quiet import quiet
from mtad.random_weights import random_model
from mtad.sources import Source, reading


def read_weights(source: Source, device: torch.device, layers: Sequence[torch.device] = ()) -> Any:
    """The Hugging Face model with its weights on `device`, or each decoder layer on its own. Raises UserError."""
    try:
        where = device_map_of(source.skeleton, layers) if layers else {"": device}
        if source.origin.random:
            return random_model(source.config, source.dtype, where, source.quantize)
        return _read(source, device_map=where)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{source.name} does not fit on {device}: {first_line(error)}") from None


def read_shared(source: Source) -> Any:
    """This process's part of the model, by the plan that transformers has for it. Raises UserError."""
    try:
        return _read(source, **_tensor_parallel())
    except torch.OutOfMemoryError as error:
        raise UserError(f"a part of {source.name} does not fit on its device: {first_line(error)}") from None


def _tensor_parallel() -> dict[str, Any]:
    """How this version of transformers is asked for its own plan."""
    from transformers.distributed import DistributedConfig

    if "tp_plan" in {field.name for field in fields(DistributedConfig)}:
        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    return {"tp_plan": "auto"}


def _read(source: Source, **how: Any) -> Any:
    """Raises UserError."""
    if source.quantization:
        how["quantization_config"] = source.quantization.config(source.dtype)
    with reading(f"the weights of {source.name}"), quiet():  # it prints a report of what it missed, and we say it
        model, found = AutoModelForCausalLM.from_pretrained(
            source.where,
            revision=source.revision,
            dtype=source.dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            **how,
        )
    missing = sorted(found["missing_keys"])  # transformers leaves out those tied to others, and fills these at random
    if missing:
        raise UserError(f"the weights of {source.name} lack {missing[0]} ({len(missing)} missing in all)")
    return model

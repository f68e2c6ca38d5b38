"""Types of number that weights are used in: their names, and which one a device computes fastest. Knows torch alone."""

from __future__ import annotations

import torch

from mtad.errors import UserError

AUTO = "auto"
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
BF16_CAPABILITY = (8, 0)  # of CUDA devices; older ones emulate it


def find_dtype(name: str, device: torch.device, whose: str) -> torch.dtype:
    """The type of that name; `auto` is bf16 where `device` computes in it, else fp32. Raises UserError."""
    if name == AUTO:
        return torch.bfloat16 if has_bf16(device) else torch.float32
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r} for the {whose}; known: {', '.join((AUTO, *DTYPES))}")
    return DTYPES[name]


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bf16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    supported = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("avx512_bf16", "amx_tile"))
    return any(ask() for ask in supported if ask)  # every processor with amx_tile has amx_bf16 beside it

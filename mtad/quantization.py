"""Weights in 8 or 4 bits, by quantizers of others: torchao first, bitsandbytes where it is installed.

Only the weights of linear layers but the head are quantized; what is computed with them stays in the model's dtype.
Knows these libraries by name and imports one only when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import nn

from mtad.errors import UserError

Quantizer = Literal["torchao", "bitsandbytes"]
BITS = (8, 4)
GROUP = 128  # weights that share a scale in torchao's 4 bits
TORCHAO_INT4_CAPABILITY = (8, 0)  # of CUDA devices, for the kernel of its 4 bits


@dataclass(frozen=True)
class Quantization:
    """How weights are quantized.

    Attributes:
        bits: of a weight, 8 or 4; scales come on top.
    """

    bits: int
    quantizer: Quantizer

    def __str__(self) -> str:
        kind = {
            ("torchao", 8): "int8 weights",
            ("torchao", 4): f"int4 weights in groups of {GROUP}",
            ("bitsandbytes", 8): "LLM.int8()",
            ("bitsandbytes", 4): "NF4",
        }[self.quantizer, self.bits]
        return f"{kind} ({self.quantizer} {version(self.quantizer)})"

    def config(self, dtype: torch.dtype) -> Any:
        """What transformers takes while it loads a model that computes in `dtype`."""
        if self.quantizer == "torchao":
            from transformers import TorchAoConfig

            return TorchAoConfig(self._torchao())
        from transformers import BitsAndBytesConfig

        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)

    def apply(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Quantize the linear layers of a module where it is, in place; for weights that no file holds.

        They must lie on their device already.
        """
        if self.quantizer == "torchao":
            from torchao.quantization import quantize_

            quantize_(module, self._torchao())
            return
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, self._bitsandbytes(child, dtype))

    def _torchao(self) -> Any:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

        if self.bits == 8:
            return Int8WeightOnlyConfig()
        return Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")

    def _bitsandbytes(self, linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
        """The quantized twin of a layer; bitsandbytes quantizes while weights move to their device."""
        import bitsandbytes as bnb

        sizes, device, biased = (linear.in_features, linear.out_features), linear.weight.device, linear.bias is not None
        weight = linear.weight.data.to("cpu")
        twin: nn.Module
        if self.bits == 8:
            twin = bnb.nn.Linear8bitLt(*sizes, bias=biased, has_fp16_weights=False)
            twin.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            twin = bnb.nn.Linear4bit(*sizes, bias=biased, compute_dtype=dtype, quant_type="nf4")
            twin.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        twin.bias = linear.bias
        return twin.to(device)


def find_quantization(
    key: str, bits: int | None, quantizer: str | None, dtype: torch.dtype, device: torch.device
) -> Quantization | None:
    """The quantization asked for under `key`, such as model.target, if it can be done here; None if none is.

    Raises:
        UserError: unknown bits or quantizer, or none that is installed can do it on this device.
    """
    if bits is None:
        if quantizer is not None:
            raise UserError(f"{key}.quantizer={quantizer} has nothing to do without {key}.bits=8 or 4")
        return None
    if bits not in BITS:
        raise UserError(f"{key}.bits must be null, 8 or 4, not {bits!r}")
    known = get_args(Quantizer)
    if quantizer not in (None, *known):
        raise UserError(f"{key}.quantizer must be null, torchao or bitsandbytes, not {quantizer!r}")
    reasons = {name: _obstacle(name, bits, dtype, device) for name in known if quantizer in (None, name)}
    for name, reason in reasons.items():
        if reason is None:
            return Quantization(bits, name)
    raise UserError(f"{key}.bits={bits} cannot be done here: {'; '.join(str(reason) for reason in reasons.values())}")


def _obstacle(quantizer: Quantizer, bits: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a quantizer cannot do it here; None if it can."""
    if find_spec(quantizer) is None:
        return f"{quantizer} is not installed (pip install {quantizer})"
    if quantizer == "torchao" and bits == 4:
        if device.type != "cuda":
            return "torchao's 4 bits need a CUDA device"
        if torch.cuda.get_device_capability(device) < TORCHAO_INT4_CAPABILITY:
            return "torchao's 4 bits need a CUDA device of compute capability 8.0 or newer"
        if dtype != torch.bfloat16:
            return "torchao's 4 bits need dtype=bf16"
    return None


def is_quantized(lm: nn.Module) -> bool:
    """Whether some weights are held in another form than numbers of the model's dtype."""
    return any(not weight.is_floating_point() or type(weight.data) is not torch.Tensor for weight in lm.parameters())

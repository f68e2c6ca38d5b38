"""Linear layers in oneDNN's own layout of the weights, for recorded forwards on a CPU.

As PyTorch keeps weights, a read of a few tokens costs up to twice as much as in the layout that oneDNN's kernels want,
and rearranging takes a second copy of them. The model itself stays as it is: only a recording sees these layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import nn

SMALLEST = 2**15  # numbers in a matrix, below which calling oneDNN costs more than it saves
LARGEST_BYTES = 2**30  # of weights that are copied; a larger model does without, for it would be twice as large


class PackedLinear(nn.Module):
    """What `nn.Linear` computes."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("packed", torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach()))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [..., in] to [..., out]."""
        return _linear()(x, self.packed, self.bias)


# PyTorch's own operation for this, without anything fused to it; a trace cannot take down its empty list by itself.
_GRAPH = """
graph(%x : Tensor, %packed : Tensor, %bias : Tensor?):
  %attr : str = prim::Constant[value="none"]()
  %algorithm : str = prim::Constant[value=""]()
  %scalars : Scalar?[] = prim::ListConstruct()
  %y : Tensor = mkldnn::_linear_pointwise(%x, %packed, %bias, %attr, %scalars, %algorithm)
  return (%y)
"""


@cache
def _linear() -> Any:
    return torch._C._create_function_from_graph("packed_linear", torch._C.parse_ir(_GRAPH))


def pack(lm: nn.Module) -> dict[nn.Module, dict[str, PackedLinear]]:
    """Packed twins of linear layers, by parent and name; none for too large a model, or where PyTorch cannot."""
    linears = [module for module in lm.modules() if isinstance(module, nn.Linear)]
    large = sum(linear.weight.nbytes for linear in linears) > LARGEST_BYTES
    if large or not all(map(_works, {linear.weight.dtype for linear in linears})):
        return {}
    return {
        parent: {name: PackedLinear(child) for name, child in parent.named_children() if _gains(child)}
        for parent in lm.modules()
    }


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has these operations for this type."""
    linear = nn.utils.skip_init(nn.Linear, 8, 8, dtype=dtype)  # which draws no random numbers
    x = torch.ones(1, 8, dtype=dtype)
    try:
        with torch.no_grad():
            linear.weight.copy_(torch.eye(8))
            linear.bias.fill_(0.5)
            return torch.allclose(PackedLinear(linear)(x), linear(x), rtol=0.01, atol=0.01)
    except (AttributeError, RuntimeError):
        return False


def _gains(module: nn.Module) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear and module.weight.numel() >= SMALLEST


@contextmanager
def swapped(twins: dict[nn.Module, dict[str, PackedLinear]]) -> Iterator[None]:
    """Meanwhile the packed layers stand in the model."""
    places = [(parent, name, twin) for parent, children in twins.items() for name, twin in children.items()]
    before = [getattr(parent, name) for parent, name, _ in places]
    try:
        for parent, name, twin in places:
            setattr(parent, name, twin)
        yield
    finally:
        for (parent, name, _), linear in zip(places, before, strict=True):
            setattr(parent, name, linear)

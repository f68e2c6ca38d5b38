"""FLOPs and bytes of a read, from a model's configuration alone.

Counted are the matrix products: 2 FLOPs for each weight and token fed, and for attention 4 FLOPs for each pair of a
new token and a cache position that its row spans, masked or not, head by head. Bytes are those of a perfect cache that
is empty at the start of each read: every weight once, whatever the batch, keys and values of the context once, those of
the new tokens written once. The input embedding is a look-up and counts in neither; a head tied to it counts in both.
Activations, norms, softmax, masks and biases are left out of FLOPs, activations and masks of bytes.

Knows Hugging Face's configurations; refuses to know weights, devices and time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from mtad.errors import UserError


@dataclass(frozen=True)
class Arithmetic:
    """What a forward of one model computes and moves.

    Attributes:
        products: weights that take part in matrix products, the output head among them.
        weights: those that a forward has to read; also norms and biases.
        attention_width: query heads times head size, summed over layers.
        cache_width: keys and values of one token, in numbers, summed over layers.
        number_bytes: bytes of one number.
    """

    products: int
    weights: int
    attention_width: int
    cache_width: int
    number_bytes: int

    def flops(self, nodes: float, context: float, batch: int = 1) -> float:
        """Of one forward that feeds `nodes` tokens to each of `batch` texts with `context` tokens in the cache."""
        products = 2 * nodes * self.products
        attention = 4 * nodes * (context + nodes) * self.attention_width
        return batch * (products + attention)

    def bytes(self, nodes: float, context: float, batch: int = 1) -> float:
        """Moved to and from memory by such a forward."""
        return self.number_bytes * (self.weights + batch * (context + nodes) * self.cache_width)


def arithmetic(config: Any, dtype: torch.dtype) -> Arithmetic:
    """Count the weights of a causal LM that is built without memory.

    Args:
        config: a configuration of Hugging Face, of a decoder whose matrices are all linear layers.

    Raises:
        UserError: the model has other matrices, so that its FLOPs are not known here.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    linear = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)} - linear.keys()
    read = {id(weight): weight for weight in model.parameters() if id(weight) not in looked_up}
    strange = [tuple(weight.shape) for key, weight in read.items() if weight.dim() > 1 and key not in linear]
    if strange:
        raise UserError(f"FLOPs of {config.model_type} are not known: it has a matrix {strange[0]} in no linear layer")
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    layers = int(config.num_hidden_layers)
    return Arithmetic(
        products=sum(weight.numel() for weight in linear.values()),
        weights=sum(weight.numel() for weight in read.values()),
        attention_width=layers * heads * size,
        cache_width=2 * layers * int(getattr(config, "num_key_value_heads", None) or heads) * size,
        number_bytes=dtype.itemsize,
    )

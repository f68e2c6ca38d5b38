"""What a model takes of memory, from its configuration alone: weights by layer, cache by token, workspace by forward.

Weights are exact, counted on a model without numbers; where linear layers are quantized, by the layouts of the backends
(tests quantize small models and compare). A workspace is the most that a forward holds beside weights and caches, by
the terms of `Workspace`. Knows no device, no prompt and no plan.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from mtad.packed import LARGEST_BYTES, SMALLEST
from mtad.quantization import GROUP

DEFAULT_QUANTIZER = "torchao"
TILE = (8, 1024)
BLOCK = 64  # and in nf4 of bitsandbytes
SCORED = 8 + 8  # bytes of a logit as it is scored: in float64, and its log-probability
WARPED = 4 + SCORED  # and as it is warped without top-k: in float32 before


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights and buffers, by the parts that stay together on a device.

    Attributes:
        embeddings: of tokens and positions, with all else that belongs to no layer, such as rotary frequencies.
        layers: of each decoder layer, in their order.
        head: of the last norm and the output matrix; the latter counts nothing where it is that of the embeddings.
    """

    embeddings: int
    layers: tuple[int, ...]
    head: int

    @property
    def total(self) -> int:
        """Of the whole model."""
        return self.embeddings + sum(self.layers) + self.head


@dataclass(frozen=True)
class Reading:
    """One forward, as far as its memory depends on it.

    Attributes:
        texts, tokens: rows of the batch, and tokens in each.
        end: the positions that each token attends to, itself included.
        logits: tokens of the whole batch whose logits are made.
        after: bytes that each column of the logits costs afterwards, where laws or scores are made of them: rows times
            `SCORED` or `WARPED`.
    """

    texts: int
    tokens: int
    end: int
    logits: int
    after: int


@dataclass(frozen=True)
class Workspace:
    """The most bytes of one forward beside weights and caches, by what takes them.

    The mask and the residual stream (its sum, two terms, and their norm) last through a layer; of the other parts only
    one is there at a time. Scores of attention are in no term: the kernels of torch make them by blocks.

    Attributes:
        mask: one number for each token and position.
        stream: four times the hidden states.
        attention: queries and results; and keys and values repeated for all heads, where heads share them.
        feed_forward: the wide states before, within and after the activation.
        logits: as the model gives them.
        laws: what is made of these after the forward.
        unpacked: the largest quantized matrix in the type that the model computes in.
    """

    mask: int
    stream: int
    attention: int
    feed_forward: int
    logits: int
    laws: int
    unpacked: int

    @property
    def peak(self) -> int:
        """Bytes."""
        layer = self.stream + max(self.attention, self.feed_forward) + self.unpacked
        hidden = self.stream // 4
        return max(self.mask + max(layer, hidden + self.logits), self.logits + self.laws)


def count_weights(
    config: Any, dtype: torch.dtype, bits: int | None = None, quantizer: str | None = None, ranks: int = 1
) -> Weights:
    """The weights of a model of this configuration, buffers included, tied ones once.

    Args:
        bits: 8 or 4: of the linear layers but the head.
        quantizer: None is torchao.
        ranks: of tensor parallelism: the share of one of them, norms and the rest being whole on each.
    """
    parts = _parts(config, dtype)
    layers = tuple(_layer_bytes(part, dtype, bits, quantizer or DEFAULT_QUANTIZER, ranks) for part in parts.layers)
    return Weights(parts.embeddings, layers, parts.head)


def cache_bytes(config: Any, dtype: torch.dtype, ranks: int = 1) -> int:
    """Keys and values of one token in one layer, on one of the ranks of tensor parallelism."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * max(1, heads // ranks) * _head_size(config) * dtype.itemsize)


def workspace(config: Any, dtype: torch.dtype, reading: Reading, bits: int | None = None) -> Workspace:
    """The memory of one forward, by its terms."""
    parts = _parts(config, dtype)
    linears = parts.layers[0].linears
    widest = max(rows for rows, _ in linears)
    wide = 1 + sum(rows == widest for rows, _ in linears)  # one more is made of those that matrices give
    size, tokens = dtype.itemsize, reading.texts * reading.tokens
    heads = config.num_attention_heads
    shared = (getattr(config, "num_key_value_heads", None) or heads) < heads
    across = heads * _head_size(config)
    return Workspace(
        mask=tokens * reading.end * (size + 1),
        stream=4 * tokens * config.hidden_size * size,
        attention=2 * size * across * (tokens + reading.texts * reading.end * shared),
        feed_forward=wide * tokens * widest * size,
        logits=config.vocab_size * reading.logits * size,
        laws=config.vocab_size * reading.after,
        unpacked=max(rows * columns for rows, columns in linears) * size if bits else 0,
    )


def packed_bytes(config: Any, dtype: torch.dtype) -> int:
    """What a recorded forward on a CPU keeps: a rearranged copy of linear layers, for models up to a size."""
    parts = _parts(config, dtype)
    head = (config.vocab_size, config.hidden_size)
    numbers = [rows * columns for rows, columns in (*(one for part in parts.layers for one in part.linears), head)]
    if sum(numbers) * dtype.itemsize > LARGEST_BYTES:
        return 0
    return sum(number for number in numbers if number >= SMALLEST) * dtype.itemsize


def spread(weights: Weights, cache: int, devices: Sequence[str]) -> dict[str, int]:
    """Bytes by device of a model's weights and cache, `cache` bytes a layer.

    Args:
        devices: the name of one for each layer, in their order; embeddings are with the first, the head with the last.
    """
    found = dict.fromkeys(devices, 0)
    for device, layer in zip(devices, weights.layers, strict=True):
        found[device] += layer + cache
    found[devices[0]] += weights.embeddings
    found[devices[-1]] += weights.head
    return found


@dataclass(frozen=True)
class _Layer:
    """A decoder layer: the shapes [rows, columns] of its linear layers, and the bytes of all else."""

    linears: tuple[tuple[int, int], ...]
    rest: int


@dataclass(frozen=True)
class _Parts:
    layers: tuple[_Layer, ...]
    embeddings: int
    head: int


def _parts(config: Any, dtype: torch.dtype) -> _Parts:
    return _parts_of(str(config.model_type), config.to_json_string(use_diff=False), dtype)


@lru_cache(maxsize=32)
def _parts_of(model_type: str, numbers: str, dtype: torch.dtype) -> _Parts:
    """From the configuration as text, for configurations themselves cannot be looked up."""
    model = without_numbers(_config(model_type, numbers), dtype)
    decoder = model.get_decoder()
    layers = tuple(map(_layer, decoder.layers))
    last = next((norm for name in ("norm", "final_layer_norm") if (norm := getattr(decoder, name, None))), None)
    matrix = model.get_output_embeddings()
    tied = matrix.weight is model.get_input_embeddings().weight
    head = (0 if tied else _bytes(matrix)) + (_bytes(last) if last is not None else 0)
    return _Parts(layers, _bytes(model) - sum(map(_bytes, decoder.layers)) - head, head)


def _config(model_type: str, numbers: str) -> Any:
    values = json.loads(numbers)
    values.pop("model_type", None)
    return AutoConfig.for_model(model_type, **values)


def without_numbers(config: Any, dtype: torch.dtype) -> Any:
    """A model of this configuration that takes no memory."""
    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    return model


def _layer(layer: nn.Module) -> _Layer:
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    weights = sum(linear.weight.nbytes for linear in linears)
    return _Layer(tuple((one.out_features, one.in_features) for one in linears), _bytes(layer) - weights)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensors in (module.parameters(), module.buffers()) for tensor in tensors)


def _layer_bytes(layer: _Layer, dtype: torch.dtype, bits: int | None, quantizer: str, ranks: int) -> int:
    linears = sum(_linear_bytes(rows, columns, dtype, bits, quantizer) for rows, columns in layer.linears)
    return -(-linears // ranks) + layer.rest


def _linear_bytes(rows: int, columns: int, dtype: torch.dtype, bits: int | None, quantizer: str) -> int:
    """A matrix as the backend keeps it: numbers, their scales and zero points."""
    numbers = rows * columns
    if bits == 8:
        return numbers + rows * (5 if quantizer == "torchao" else 4)  # a float32 scale a row; an int8 zero point
    if bits == 4 and quantizer == "bitsandbytes":
        return numbers // 2 + 4 * -(-numbers // BLOCK) + 16 * 4  # float32 maxima of blocks, and the table of values
    if bits == 4 and columns % GROUP == 0:  # other matrices torchao leaves as they are
        padded = -(-rows // TILE[0]) * TILE[0] * -(-columns // TILE[1]) * TILE[1]
        return padded // 2 + 4 * padded // GROUP  # a scale and a zero point of 16 bits each
    return numbers * dtype.itemsize


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

"""One model as it is found before any weight is read: configuration, tokenizer, dtype, and where it came from.

Knows Hugging Face's formats. Every reason not to go on is a `UserError` of one line that says what to do. Knows nothing
of devices that are shared, of configurations, tasks and results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.utils.hub import cached_file

from mtad.dtypes import find_dtype
from mtad.errors import UserError, first_line
from mtad.folders import PACKAGE, WEIGHTS, check_weights, content_hash, find_folder
from mtad.footprint import Weights, count_weights, without_numbers
from mtad.hub import commit_of, whole_snapshot
from mtad.quantization import Quantization, find_quantization
from mtad.random_weights import Shape, find_shape

CPU = torch.device("cpu")
CONTENT = (*WEIGHTS, "*.json", "*.model", "*.txt")
STAND_IN_TOKENIZER = PACKAGE / "tiny" / "target"  # of models with random weights; its ids are valid in all of them


@dataclass(frozen=True)
class ModelSpec:
    """Which weights a user asks for.

    Attributes:
        id: repository on the Hugging Face hub.
        revision: its branch, tag or commit; None is the default branch.
        path: a folder instead, which wins over `id`; one that begins with `mtad/` lies in this package.
        dtype: fp32, bf16 or fp16; auto is bf16 on a device that computes in it, else fp32.
        bits: 8 or 4 for each number of the linear layers but the head, quantized while they are read; None: `dtype`.
        quantizer: "torchao" or "bitsandbytes"; None is the first that is installed and can do it on the device.
        weights: None reads them; "random" draws them in the shape of `id`, for nothing but to measure costs.
        scale: of random weights: None is the whole shape, "debug" a very small one.
    """

    id: str | None = None
    revision: str | None = None
    path: str | None = None
    dtype: str = "fp32"
    bits: int | None = None
    quantizer: str | None = None
    weights: str | None = None
    scale: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where weights came from, without any absolute path.

    Attributes:
        id, revision: hub repository and commit, or None.
        folder, sha256: a folder's own name and the hash of its content, or None.
        dtype: the type of number that the weights are used in.
        quantized: how the weights of linear layers are held, and by what; None: in `dtype` too.
        random: the shape in which weights were drawn at random, `sha256` then says from what; None: they were read.
    """

    id: str | None
    revision: str | None
    folder: str | None
    sha256: str | None
    dtype: str
    quantized: str | None = None
    random: str | None = None

    def __str__(self) -> str:
        name = f"random weights in the shape of {self.random}" if self.random else self.id or self.folder
        return ", ".join(filter(None, (name, self.dtype, self.quantized)))


@dataclass(frozen=True)
class Source:
    """One model as found, its weights not read yet. `name` is what messages call it."""

    name: str
    where: str
    revision: str | None
    config: Any
    dtype: torch.dtype
    origin: Origin
    quantization: Quantization | None = None

    @cached_property
    def skeleton(self) -> Any:
        """The Hugging Face model without weights, which takes no memory."""
        with reading(f"the config of {self.name}"):
            return without_numbers(self.config, self.dtype)

    @property
    def quantize(self) -> Callable[[nn.Module], None] | None:
        """Quantizes a part of the model in place, as far as that was asked for."""
        return partial(self.quantization.apply, dtype=self.dtype) if self.quantization else None

    def parts(self, ranks: int = 1) -> Weights:
        """Bytes that its weights take, by its configuration; on each of `ranks` processes that share its layers."""
        how = self.quantization
        bits, quantizer = (how.bits, how.quantizer) if how else (None, None)
        return count_weights(self.config, self.dtype, bits, quantizer, ranks)

    @property
    def parameters(self) -> int:
        """How many it has, by its configuration; tied ones count once."""
        return sum(parameter.numel() for parameter in self.skeleton.parameters())


def find_model(key: str, spec: ModelSpec, dtype: str | None = None, device: torch.device = CPU) -> Source:
    """Find a model to run on `device`; `key` is where the user named it, such as model.target. Raises UserError."""
    role = key.rpartition(".")[2]
    number = find_dtype(dtype or spec.dtype, device, role)
    quantization = find_quantization(key, spec.bits, spec.quantizer, number, device)
    used = str(number).removeprefix("torch."), str(quantization) if quantization else None
    if spec.weights or spec.scale:
        shape = _random_shape(key, spec)
        name = f"{role} {spec.id} (random weights)"
        origin = Origin(None, None, None, shape.sha256, *used, shape.name)
        return Source(name, shape.name, None, shape.config, number, origin, quantization)
    if spec.path:
        with reading(f"the files of {role} {spec.path}"):
            folder = check_weights(key, find_folder(spec.path))
            origin = Origin(None, None, folder.resolve().name, content_hash(folder, CONTENT), *used)
        name = f"{role} {spec.path}"
        return Source(name, str(folder), None, read_config(name, str(folder), None), number, origin, quantization)
    if not spec.id:
        raise UserError(f"{key} needs a hub id or a folder: give {key}.path=FOLDER")
    commit = commit_of(key, spec.id, spec.revision)
    held = whole_snapshot(spec.id, commit)  # transformers asks the hub all the same, again and again if it is away
    where, revision = (str(held), None) if held else (spec.id, commit)
    origin, name = Origin(spec.id, commit, None, None, *used), f"{role} {spec.id}"
    return Source(name, where, revision, read_config(name, where, revision), number, origin, quantization)


def _random_shape(key: str, spec: ModelSpec) -> Shape:
    """Raises UserError."""
    if spec.weights is None:
        raise UserError(f"{key}.scale={spec.scale} is of random weights alone: model.weights=random")
    if spec.weights != "random":
        raise UserError(f"{key}.weights must be null or random, not {spec.weights!r}")
    if spec.path:
        raise UserError(f"{key}.weights=random takes the shape of a hub id, and there is {key}.path={spec.path}")
    if not spec.id:
        raise UserError(f"{key}.weights=random takes the shape of a hub id: give {key}.id")
    return find_shape(key, spec.id, spec.scale)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Another library reads files here. Damaged ones make it fail with any class of error; each becomes a UserError."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise UserError(f"cannot read {what}: {kind}{first_line(error)}") from None


def read_config(name: str, where: str, revision: str | None = None) -> Any:
    """The configuration of Hugging Face, of a folder or of a commit on the hub. Raises UserError."""
    with reading(f"the config of {name}"):
        config = AutoConfig.from_pretrained(where, revision=revision)
    if not hasattr(config, "max_position_embeddings"):
        raise UserError(f"{name}: its config names no max_position_embeddings; not a model of a known kind")
    return config


def read_tokenizer(source: Source) -> Any:
    """The model's own, or a stand-in for one of random weights. Raises UserError."""
    with reading(f"the tokenizer of {source.name}"):
        if source.origin.random:
            return AutoTokenizer.from_pretrained(STAND_IN_TOKENIZER)
        return AutoTokenizer.from_pretrained(source.where, revision=source.revision)


def same_vocabulary(sources: list[Source], tokenizers: list[Any]) -> None:
    """Raises UserError unless the tokenizers' tables are equal.

    The number of embedding rows says nothing, since these are often padded.
    """
    tables = [tokenizer.get_vocab() for tokenizer in tokenizers]
    if tables[0] == tables[-1]:
        return
    first, second = ({number: token for token, number in table.items()} for table in tables)
    number = min(i for i in first.keys() | second.keys() if first.get(i) != second.get(i))
    raise UserError(
        f"the pair has two vocabularies: token {number} is {first.get(number)!r} for {sources[0].name} "
        f"({len(first)} tokens) and {second.get(number)!r} for {sources[1].name} ({len(second)} tokens)"
    )


def same_rows(sources: list[Source]) -> None:
    """Raises UserError unless models of random weights, which have no tables of tokens, have as many rows each."""
    first, second = (source.config.vocab_size for source in sources)
    if first != second:
        raise UserError(f"the pair has two vocabularies: {first} tokens, and {second} for {sources[1].name}")


def end_tokens(source: Source, tokenizer: Any) -> frozenset[int]:
    """The ids that end a text of the target: those of its generation config and of its tokenizer."""
    if source.origin.random:  # the tokenizer is another model's
        return frozenset([source.config.eos_token_id])
    with reading(f"the generation config of {source.name}"):
        file = cached_file(
            source.where,
            "generation_config.json",
            revision=source.revision,
            _raise_exceptions_for_missing_entries=False,
        )
        holder = GenerationConfig.from_pretrained(source.where, revision=source.revision) if file else source.config
        named = holder.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)

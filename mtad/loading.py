"""A model pair, from hub ids or folders: what can be checked without weights first, the weights then.

Knows Hugging Face's formats. Every reason not to load is a `UserError` of one line that says what to do, found within
seconds and before any weight is read where that is possible. Knows nothing of configurations, tasks and results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.hub import cached_file

from mtad.dtypes import find_dtype
from mtad.ending import Detokenise
from mtad.errors import UserError, first_line
from mtad.folders import PACKAGE, WEIGHTS, check_weights, content_hash, find_folder
from mtad.hub import commit_of
from mtad.model import CausalModel
from mtad.random_weights import find_shape, random_model
from mtad.recorded import Mode

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
        random: the shape in which weights were drawn at random, `sha256` then says from what; None: they were read.
    """

    id: str | None
    revision: str | None
    folder: str | None
    sha256: str | None
    dtype: str
    random: str | None = None


@dataclass(frozen=True)
class Source:
    """One model as found, its weights not read yet. `name` is what messages call it."""

    name: str
    where: str
    revision: str | None
    config: Any
    dtype: torch.dtype
    origin: Origin

    @cached_property
    def parameters(self) -> int:
        """How many it has, by its configuration; tied ones count once."""
        with torch.device("meta"):  # no memory is taken
            model = AutoModelForCausalLM.from_config(self.config)
        return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Pair:
    """Two loaded models over one vocabulary.

    Attributes:
        eos: ids that end a text.
        max_positions: the longest text that both models take, in tokens.
        origins: of `target` and `draft`.
    """

    target: CausalModel
    draft: CausalModel
    tokenizer: Any
    eos: frozenset[int]
    max_positions: int
    origins: dict[str, Origin]


@dataclass(frozen=True)
class Blueprint:
    """A pair that passed every check which needs no weights; attributes as in `Pair`."""

    target: Source
    draft: Source
    tokenizer: Any
    vocabulary: int
    eos: frozenset[int]

    @property
    def max_positions(self) -> int:
        return int(min(source.config.max_position_embeddings for source in (self.target, self.draft)))

    @property
    def origins(self) -> dict[str, Origin]:
        return {"target": self.target.origin, "draft": self.draft.origin}

    @property
    def parameters(self) -> dict[str, int]:
        """How many each model has, by its configuration; tied ones count once."""
        return {"target": self.target.parameters, "draft": self.draft.parameters}

    def load(self, device: torch.device, rows: int = 1, engine: Mode = "auto") -> Pair:
        """Read the weights onto `device`, with caches for `rows` texts, and forwards that run by `engine`."""
        target, draft = (
            CausalModel(read_weights(source, device), self.vocabulary, rows, engine)
            for source in (self.target, self.draft)
        )
        return Pair(target, draft, self.tokenizer, self.eos, self.max_positions, self.origins)


def speller(tokenizer: Any) -> Detokenise:
    """From token ids to the text that they spell, special tokens left out."""
    return lambda tokens: str(
        tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def load_pair(
    target: ModelSpec, draft: ModelSpec, device: str = "auto", dtype: str | None = None, rows: int = 1
) -> Pair:
    """Load a pair; `dtype` overrides both specs. Raises UserError."""
    place = find_device(device)
    return inspect_pair(target, draft, dtype, place).load(place, rows)


def inspect_pair(
    target: ModelSpec, draft: ModelSpec, dtype: str | None = None, device: torch.device = CPU
) -> Blueprint:
    """Find both models and compare what can be compared without weights. Raises UserError.

    Args:
        device: where they are to run, which decides what the dtype `auto` is.
    """
    sources = find_model("model.target", target, dtype, device), find_model("model.draft", draft, dtype, device)
    real = [source for source in sources if not source.origin.random]
    tokenizers = [read_tokenizer(source) for source in real or sources[:1]]
    same_vocabulary(real, tokenizers)
    vocabulary = max(tokenizers[0].get_vocab().values()) + 1 if real else sources[0].config.vocab_size
    for source in sources:
        rows = source.config.vocab_size
        if not real and rows != vocabulary:
            raise UserError(f"the pair has two vocabularies: {vocabulary} tokens, and {rows} for {source.name}")
        if rows < vocabulary:
            raise UserError(
                f"{source.name} has {rows} rows of embeddings, fewer than the {vocabulary} tokens of its tokenizer"
            )
    return Blueprint(*sources, tokenizers[0], vocabulary, _eos(sources[0], tokenizers[0]))


def find_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:i`. Raises UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UserError(f"device must be auto, cpu, cuda or cuda:<index>, not {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: torch sees no CUDA device here; use device=cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise UserError(f"device={name}: there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device("cpu")


def find_model(key: str, spec: ModelSpec, dtype: str | None = None, device: torch.device = CPU) -> Source:
    """Find a model to run on `device`; `key` is where the user named it, such as model.target. Raises UserError."""
    role = key.rpartition(".")[2]
    number = find_dtype(dtype or spec.dtype, device, role)
    short = str(number).removeprefix("torch.")
    if spec.weights or spec.scale:
        return _random_source(key, spec, number, short)
    if spec.path:
        with _reading(f"the files of {role} {spec.path}"):
            folder = check_weights(key, find_folder(spec.path))
            origin = Origin(None, None, folder.resolve().name, content_hash(folder, CONTENT), short)
        return Source(f"{role} {spec.path}", str(folder), None, _config(role, str(folder), None), number, origin)
    if not spec.id:
        raise UserError(f"{key} needs a hub id or a folder: give {key}.path=FOLDER")
    commit = commit_of(key, spec.id, spec.revision)
    config = _config(role, spec.id, commit)
    return Source(f"{role} {spec.id}", spec.id, commit, config, number, Origin(spec.id, commit, None, None, short))


def _random_source(key: str, spec: ModelSpec, dtype: torch.dtype, short: str) -> Source:
    if spec.weights is None:
        raise UserError(f"{key}.scale={spec.scale} is of random weights alone: model.weights=random")
    if spec.weights != "random":
        raise UserError(f"{key}.weights must be null or random, not {spec.weights!r}")
    if spec.path:
        raise UserError(f"{key}.weights=random takes the shape of a hub id, and there is {key}.path={spec.path}")
    if not spec.id:
        raise UserError(f"{key}.weights=random takes the shape of a hub id: give {key}.id")
    shape = find_shape(key, spec.id, spec.scale)
    origin = Origin(None, None, None, shape.sha256, short, shape.name)
    return Source(f"{key.rpartition('.')[2]} {spec.id} (random weights)", shape.name, None, shape.config, dtype, origin)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Another library reads files here. Damaged ones make it fail with any class of error; each becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise UserError(f"cannot read {what}: {kind}{first_line(error)}") from None


def _config(role: str, where: str, revision: str | None) -> Any:
    with _reading(f"the config of {role} {where}"):
        config = AutoConfig.from_pretrained(where, revision=revision)
    if not hasattr(config, "max_position_embeddings"):
        raise UserError(f"{role} {where}: its config names no max_position_embeddings; not a model of a known kind")
    return config


def read_tokenizer(source: Source) -> Any:
    """The model's own, or a stand-in for one of random weights. Raises UserError."""
    with _reading(f"the tokenizer of {source.name}"):
        if source.origin.random:
            return AutoTokenizer.from_pretrained(STAND_IN_TOKENIZER)
        return AutoTokenizer.from_pretrained(source.where, revision=source.revision)


def read_weights(source: Source, device: torch.device) -> Any:
    """The Hugging Face model with its weights on `device`. Raises UserError."""
    try:
        if source.origin.random:
            return random_model(source.config, source.dtype, device)
        return _read_weights(source).to(device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{source.name} does not fit on {device}: {first_line(error)}") from None


def _read_weights(source: Source) -> Any:
    with _reading(f"the weights of {source.name}"):
        model, found = AutoModelForCausalLM.from_pretrained(
            source.where,
            revision=source.revision,
            dtype=source.dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    missing = sorted(found["missing_keys"])  # transformers leaves out those tied to others, and fills these at random
    if missing:
        raise UserError(f"the weights of {source.name} lack {missing[0]} ({len(missing)} missing in all)")
    return model


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


def _eos(source: Source, tokenizer: Any) -> frozenset[int]:
    """The ids that end a text of the target: those of its generation config and of its tokenizer."""
    if source.origin.random:  # the tokenizer is another model's
        return frozenset([source.config.eos_token_id])
    with _reading(f"the generation config of {source.name}"):
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

"""A model pair, from hub ids or folders: what can be checked without weights first, the weights then.

Knows Hugging Face's formats. Every reason not to load is a `UserError` of one line that says what to do, found within
seconds and before any weight is read where that is possible. Knows nothing of configurations, tasks and results.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.hub import cached_file

from mtad.dtypes import find_dtype
from mtad.ending import Detokenise
from mtad.errors import UserError, first_line
from mtad.hub import commit_of
from mtad.model import CausalModel
from mtad.recorded import Mode

CPU = torch.device("cpu")
PACKAGE = Path(__file__).parent
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
CONTENT = (*WEIGHTS, "*.json", "*.model", "*.txt")
HASHED_WHOLE_BYTES = 2**30  # of larger files only evenly spaced blocks are hashed: 140 GB would take minutes
BLOCK_BYTES = 2**20
BLOCKS = 64


@dataclass(frozen=True)
class ModelSpec:
    """Which weights a user asks for.

    Attributes:
        id: repository on the Hugging Face hub.
        revision: its branch, tag or commit; None is the default branch.
        path: a folder instead, which wins over `id`; one that begins with `mtad/` lies in this package.
        dtype: fp32, bf16 or fp16; auto is bf16 on a device that computes in it, else fp32.
    """

    id: str | None = None
    revision: str | None = None
    path: str | None = None
    dtype: str = "fp32"


@dataclass(frozen=True)
class Origin:
    """Where weights came from, without any absolute path.

    Attributes:
        id, revision: hub repository and commit, or None.
        folder, sha256: a folder's own name and the hash of its content, or None.
        dtype: the type of number that the weights are used in.
    """

    id: str | None
    revision: str | None
    folder: str | None
    sha256: str | None
    dtype: str


@dataclass(frozen=True)
class Source:
    """One model as found, its weights not read yet. `name` is what messages call it."""

    name: str
    where: str
    revision: str | None
    config: Any
    dtype: torch.dtype
    origin: Origin


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
        return {"target": _parameters(self.target.config), "draft": _parameters(self.draft.config)}

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
    tokenizers = [read_tokenizer(source) for source in sources]
    _same_vocabulary(sources, tokenizers)
    vocabulary = max(tokenizers[0].get_vocab().values()) + 1
    for source in sources:
        if source.config.vocab_size < vocabulary:
            raise UserError(
                f"{source.name} has {source.config.vocab_size} rows of embeddings, fewer than the {vocabulary} tokens "
                f"of its tokenizer"
            )
    return Blueprint(*sources, tokenizers[0], vocabulary, _eos(sources[0], tokenizers[0]))


def _parameters(config: Any) -> int:
    with torch.device("meta"):  # no memory is taken
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


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


def find_folder(path: str) -> Path:
    """The folder that a user or a model YAML means by `path`; it need not exist."""
    folder = Path(os.path.expanduser(path))  # noqa: PTH111  # Path's own raises for an unknown user
    return PACKAGE.parent / folder if folder.parts[:1] == (PACKAGE.name,) else folder


def content_hash(path: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """sha256 over names, sizes and content of a file, or of a folder's files that match (subfolders left out)."""
    digest = hashlib.sha256()
    files = (
        [path] if path.is_file() else {file for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    )
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            starts = range(0, size, BLOCK_BYTES)
            for start in starts if size <= HASHED_WHOLE_BYTES else starts[:: len(starts) // BLOCKS]:
                stream.seek(start)
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()


def find_model(key: str, spec: ModelSpec, dtype: str | None = None, device: torch.device = CPU) -> Source:
    """Find a model to run on `device`; `key` is where the user named it, such as model.target. Raises UserError."""
    role = key.rpartition(".")[2]
    number = find_dtype(dtype or spec.dtype, device, role)
    short = str(number).removeprefix("torch.")
    if spec.path:
        with _reading(f"the files of {role} {spec.path}"):
            folder = _checked_folder(key, find_folder(spec.path))
            origin = Origin(None, None, folder.resolve().name, content_hash(folder, CONTENT), short)
        return Source(f"{role} {spec.path}", str(folder), None, _config(role, str(folder), None), number, origin)
    if not spec.id:
        raise UserError(f"{key} needs a hub id or a folder: give {key}.path=FOLDER")
    commit = commit_of(key, spec.id, spec.revision)
    config = _config(role, spec.id, commit)
    return Source(f"{role} {spec.id}", spec.id, commit, config, number, Origin(spec.id, commit, None, None, short))


def _checked_folder(key: str, folder: Path) -> Path:
    # First of all: transformers takes a folder that does not exist for a hub id, and tries the network for 20 s.
    if not folder.is_dir():
        raise UserError(f"{key}.path={folder}: there is no such folder")
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}.path={folder}: no config.json in this folder")
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        raise UserError(f"{key}.path={folder}: no weights in this folder (looked for {', '.join(WEIGHTS)})")
    return folder


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
    """Raises UserError."""
    with _reading(f"the tokenizer of {source.name}"):
        return AutoTokenizer.from_pretrained(source.where, revision=source.revision)


def read_weights(source: Source, device: torch.device) -> Any:
    """The Hugging Face model with its weights on `device`. Raises UserError."""
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
    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{source.name} does not fit on {device}: {first_line(error)}") from None


def _same_vocabulary(sources: tuple[Source, Source], tokenizers: list[Any]) -> None:
    """Equal tables, by the tokenizers: the number of embedding rows says nothing, since these are often padded."""
    tables = [tokenizer.get_vocab() for tokenizer in tokenizers]
    if tables[0] == tables[1]:
        return
    first, second = ({number: token for token, number in table.items()} for table in tables)
    number = min(i for i in first.keys() | second.keys() if first.get(i) != second.get(i))
    raise UserError(
        f"the pair has two vocabularies: token {number} is {first.get(number)!r} for {sources[0].name} "
        f"({len(first)} tokens) and {second.get(number)!r} for {sources[1].name} ({len(second)} tokens)"
    )


def _eos(source: Source, tokenizer: Any) -> frozenset[int]:
    """The ids that end a text of the target: those of its generation config and of its tokenizer."""
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

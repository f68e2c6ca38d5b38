"""The pair as far as it can be known without weights: as found, else by the shapes that the project carries.

Where a model cannot be had, a public shape of its id tells what it would need: one failing check hides no other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoTokenizer

from experiments.doctor.finding import Finding, tried
from mtad.attention import check_trees, window_of
from mtad.dtypes import AUTO, find_dtype
from mtad.errors import UserError
from mtad.folders import find_folder
from mtad.loading import Blueprint, inspect_pair
from mtad.placement import Placement
from mtad.quantization import Quantization, find_quantization
from mtad.random_weights import SHAPES, Shape, find_shape
from mtad.sources import (
    STAND_IN_TOKENIZER,
    ModelSpec,
    Origin,
    Source,
    find_model,
    read_config,
    read_tokenizer,
    same_rows,
    same_vocabulary,
)

Find = Callable[[ModelSpec, torch.device], Source]
ROLES = ("target", "draft")
SHAPE = "by the committed shape"
ANOTHER = "take a draft of the target's family: its own smaller sizes, or one trained on its tokenizer"


@dataclass(frozen=True)
class Known:
    """One model.

    Attributes:
        spec: as asked for, with a dtype and bits that there are.
        source: the model, or what stands in for it; None: nothing is known of it.
        tokenizer: its own; None for the reason `no_tokenizer`.
        shape: the committed one that `source` is made of, where the model itself was not to be had.
        findings: on the access to it, its dtype and its bits.
    """

    role: str
    spec: ModelSpec
    source: Source | None
    tokenizer: Any
    no_tokenizer: str
    shape: Shape | None
    findings: tuple[Finding, ...]

    @property
    def mark(self) -> str:
        """What is to be said of figures that depend on its configuration."""
        return f" ({SHAPE})" if self.shape else ""


@dataclass(frozen=True)
class KnownPair:
    """Both models.

    Attributes:
        blueprint: of the real pair, or of what stands in for it; None where a model is not known at all.
        estimated: why its tokens are not the pair's own; "" where they are.
        vocabulary: the finding on it.
        refusal: why a run would refuse a pair of which all is known; None: it would not, or not all is known.
    """

    models: dict[str, Known]
    blueprint: Blueprint | None
    estimated: str
    vocabulary: Finding
    refusal: str | None

    @property
    def mark(self) -> str:
        """What is to be said of figures that depend on both configurations."""
        return next((known.mark for known in self.models.values() if known.shape), "")


def know_pair(target: ModelSpec, draft: ModelSpec, dtype: str | None, placement: Placement) -> KnownPair:
    """Ask for both models, once each; `dtype` overrides theirs."""
    wanted = {"target": (target, placement.device), "draft": (draft, placement.draft)}
    models = {role: know(role, spec, dtype, device) for role, (spec, device) in wanted.items()}
    known = list(models.values())
    vocabulary = _vocabulary(known)
    first, second = (one.source for one in known)
    if all(one.tokenizer for one in known):
        try:
            whole = inspect_pair(known[0].spec, known[1].spec, None, placement)
            return KnownPair(models, whole, "", vocabulary, None)
        except UserError as error:
            refusal = str(error)
    else:
        refusal = None
    if first is None or second is None:
        return KnownPair(models, None, "the configuration of a model is not known", vocabulary, refusal)
    own = next((one.tokenizer for one in known if one.tokenizer), None)
    estimated = "" if own else "the pair's tokenizers cannot be had"
    tokenizer = own or AutoTokenizer.from_pretrained(STAND_IN_TOKENIZER)
    rows = min(first.config.vocab_size, second.config.vocab_size)
    blueprint = Blueprint(first, second, tokenizer, rows, frozenset(), placement)
    return KnownPair(models, blueprint, estimated, vocabulary, refusal)


def know(
    role: str, spec: ModelSpec, dtype: str | None, device: torch.device, key: str = "", find: Find | None = None
) -> Known:
    """What can be known of one model; `key` is where the user named it, if not model.<role>."""
    key = key or f"model.{role}"
    spec, numbers = _checked(role, key, replace(spec, dtype=dtype or spec.dtype), device)
    try:
        source, shape = find(spec, device) if find else find_model(key, spec, None, device), None
        access = Finding(_access(role, spec), "ok", _found(spec, source))
    except UserError as error:
        access = Finding(_access(role, spec), "fails", str(error))
        stand_in, shape = _stand_in(key, role, spec, device)
        if stand_in is None or shape:
            return Known(role, spec, stand_in, None, "its tokenizer cannot be had", shape, (access, *numbers))
        source = stand_in
    try:
        return Known(role, spec, source, read_tokenizer(source), "", shape, (access, *numbers))
    except UserError as error:
        broken = [Finding(f"{role}: tokenizer", "fails", str(error))] if access.verdict == "ok" else []
        return Known(role, spec, source, None, "its tokenizer cannot be read", shape, (access, *broken, *numbers))


def _checked(role: str, key: str, spec: ModelSpec, device: torch.device) -> tuple[ModelSpec, list[Finding]]:
    """The model with a dtype and bits that there are, and the findings on those asked for."""
    number = tried(f"{role}: dtype", lambda: str(find_dtype(spec.dtype, device, role)).removeprefix("torch."))
    if number.verdict == "fails":
        spec, number = replace(spec, dtype=AUTO), replace(number, advice=f"the other rows are told of dtype={AUTO}")
    if spec.bits is None and spec.quantizer is None:
        return spec, [number]
    bits = tried(f"{role}: bits", lambda: str(_quantization(role, key, spec, device)))
    return spec if bits.verdict == "ok" else replace(spec, bits=None, quantizer=None), [number, bits]


def _quantization(role: str, key: str, spec: ModelSpec, device: torch.device) -> Quantization | None:
    return find_quantization(key, spec.bits, spec.quantizer, find_dtype(spec.dtype, device, role), device)


def _access(role: str, spec: ModelSpec) -> str:
    return f"{role}: {'shape' if spec.weights else 'folder' if spec.path else 'access'}"


def _found(spec: ModelSpec, source: Source) -> str:
    if source.origin.random:
        return f"access is not needed: random weights in the shape of {source.origin.random}"
    if spec.path:
        return f"{spec.path} holds a {source.config.model_type} model"
    return f"{spec.id} is readable, commit {str(source.origin.revision)[:7]}"


def _stand_in(key: str, role: str, spec: ModelSpec, device: torch.device) -> tuple[Source | None, Shape | None]:
    """A model that cannot be had: a folder by its configuration, a hub id by its committed shape; None: by nothing."""
    number, quantization = find_dtype(spec.dtype, device, role), _quantization(role, key, spec, device)
    used = str(number).removeprefix("torch."), str(quantization) if quantization else None
    name = f"{role} {spec.path or spec.id}"
    try:
        if spec.path:
            folder = find_folder(spec.path)
            config = read_config(name, str(folder)) if (folder / "config.json").is_file() else None
            origin = Origin(None, None, folder.resolve().name, None, *used)
            return Source(name, str(folder), None, config, number, origin, quantization) if config else None, None
        shape = find_shape(key, spec.id, None)
    except UserError:
        return None, None
    where = str(spec.id)
    return Source(name, where, None, shape.config, number, Origin(where, None, None, None, *used), quantization), shape


def _vocabulary(models: list[Known]) -> Finding:
    """By the tokenizers' tables, or else by what the committed shapes say of them."""
    if all(known.tokenizer for known in models):
        return tried("vocabulary", lambda: _compared(models), ANOTHER)
    families = [_family(known) for known in models]
    if None in families:
        unknown = models[families.index(None)]
        why = unknown.no_tokenizer or "the other's table is not to be had"
        return Finding("vocabulary", "not checked", f"of the {unknown.role}: {why}, and no shape tells its family")
    names = " and ".join(f"{family} ({known.spec.id})" for known, family in zip(models, families, strict=True))
    if families[0] != families[1]:
        said = f"the pair has two vocabularies, {SHAPE}s: {names}"
        return Finding("vocabulary", "fails", said, ANOTHER)
    said = f"of one family, {families[0]}, {SHAPE}s; the tables are compared once both tokenizers can be read"
    return Finding("vocabulary", "ok", said)


def _compared(models: list[Known]) -> str:
    """Raises UserError unless the tables are equal, or with random weights the rows of embeddings as many."""
    real = [known for known in models if not known.spec.weights]
    if not real:
        same_rows([known.source for known in models if known.source])
    if len(real) < len(ROLES):
        return "with random weights there are no two tables to compare"
    same_vocabulary([known.source for known in real if known.source], [known.tokenizer for known in real])
    return f"{len(real[0].tokenizer.get_vocab())} tokens, equal in both tokenizers' tables"


def _family(known: Known) -> str | None:
    """Which tokenizer the model was trained with, as the shape of its id tells; a folder's is not known."""
    return None if known.spec.path else published_facts(known.spec.id).get("vocabulary")


def published_facts(hub_id: str | None) -> dict[str, Any]:
    """What the committed shape of this id says beside the configuration; empty where there is none.

    Among them `vocabulary`, a name for the tokenizer's table, and `stored`, the type of number in the public files.
    """
    shapes = (json.loads(file.read_text(encoding="utf-8")) for file in sorted(SHAPES.glob("*.json")))
    return next((shape for shape in shapes if hub_id in shape["ids"]), {})


def attention(pair: KnownPair, longest: int | None) -> Iterator[Finding]:
    """Whether each model reads token trees, in texts of `longest` tokens; None: their length is not known."""
    for known in pair.models.values():
        check, source = f"{known.role}: attention", known.source
        if source is None:
            yield Finding(check, "not checked", "its configuration is not known")
            continue
        finding = tried(check, lambda source=source: _reads_trees(source, longest))  # type: ignore[misc]
        yield replace(finding, found=finding.found + known.mark)


def _reads_trees(source: Source, longest: int | None) -> str:
    check_trees(source.name, source.config, longest)
    window = window_of(source.config)
    if window is not None:
        return f"{source.config.model_type} reads token trees; its windows of {window} tokens are not reached"
    return f"{source.config.model_type} reads token trees, by sdpa with a mask of their own"

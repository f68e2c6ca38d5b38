"""The pair's tokenizer, and training documents packed into rows of equal length."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from experiments.corpus import arithmetic, code, sql
from experiments.corpus.document import Document

VOCABULARY = 3072
BOS, EOS = "<s>", "</s>"
CONTEXT_WEIGHT = 0.1  # loss weight of text that is context rather than answer
ROW = 384  # tokens a row trains on, the longest context the pair has seen
# Rows of each task in one training batch, up to a step: SQL is learned early, arithmetic needs many more examples.
MIXES = ((350, {"sql": 6, "arithmetic": 4, "code": 6}), (900, {"sql": 4, "arithmetic": 8, "code": 4}))
RESPELLED_MIX = {"sql": 8, "arithmetic": 4, "code": 4}  # once SQL comes in many spellings


@dataclass(frozen=True)
class Row:
    """``ROW + 1`` tokens of a task, and for each of the last ``ROW`` of them the weight of its loss."""

    task: str
    tokens: list[int]
    weights: list[float]


def train_tokenizer(seed: int) -> Tokenizer:
    """A byte-level BPE with single digits, learned from a sample of the three tasks' training text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = [document.text for document in itertools.islice(sql.documents(seed), 2000)]
    sample += [document.text for document in itertools.islice(arithmetic.documents(seed), 4000)]
    sample += [function.text for function in code.training_functions(code.files())]
    tokenizer.train_from_iterator(sample, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text without the beginning-of-sequence token."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _weighted(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[float]]:
    """A document's tokens from ``BOS`` to ``EOS`` with the weights of their losses."""
    tokens, weights = encode(tokenizer, BOS), [0.0]
    for segment in document.segments:
        ids = encode(tokenizer, segment.text)
        tokens += ids
        weights += [1.0 if segment.learned else CONTEXT_WEIGHT] * len(ids)
    return tokens + encode(tokenizer, EOS), [*weights, 1.0]


def _cycle(documents: Sequence[Document], seed: int) -> Iterator[Document]:
    """Endless passes over the documents, each in a new order."""
    rng = random.Random(f"code {seed}")
    while True:
        yield from rng.sample(documents, len(documents))


def _rows(tokenizer: Tokenizer, task: str, documents: Iterator[Document]) -> Iterator[Row]:
    """Documents joined into rows; every row starts with a document, and what does not fit its end is dropped."""
    while True:
        tokens: list[int] = []
        weights: list[float] = []
        while len(tokens) <= ROW:
            more_tokens, more_weights = _weighted(tokenizer, next(documents))
            tokens += more_tokens
            weights += more_weights
        yield Row(task, tokens[: ROW + 1], weights[1 : ROW + 1])


def batches(tokenizer: Tokenizer, seed: int, held_out_code: Sequence[str], respell_from: int) -> Iterator[list[Row]]:
    """An endless seeded stream of batches, mixed as ``MIXES`` says; from a step on with SQL in many spellings."""
    functions = code.training_functions(code.files())
    code_documents = code.documents(functions, lambda text: encode(tokenizer, text), held_out_code)
    streams = {
        "sql": _rows(tokenizer, "sql", sql.documents(seed)),
        "respelled": _rows(tokenizer, "sql", sql.documents(seed + 1, respell=True)),
        "arithmetic": _rows(tokenizer, "arithmetic", arithmetic.documents(seed)),
        "code": _rows(tokenizer, "code", _cycle(code_documents, seed)),
    }
    for step in itertools.count():
        respell = step >= respell_from
        mix = RESPELLED_MIX if respell else next((mix for end, mix in MIXES if step < end), MIXES[-1][1])
        names = {"sql": "respelled"} if respell else {}
        yield [next(streams[names.get(task, task)]) for task, count in mix.items() for _ in range(count)]

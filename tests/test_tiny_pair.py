"""The embedded pair: its size, its tokenizer, and that it was never trained on what it is measured with."""

from __future__ import annotations

import itertools
import json
import platform
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.corpus import arithmetic, code, heldout, packing, sql
from experiments.corpus.dialect import respelled
from experiments.corpus.document import Document, Segment
from experiments.corpus.schema import schemas
from experiments.task import Prompt
from experiments.tasks.arithmetic import Arithmetic
from experiments.tasks.code import Code
from experiments.tasks.sql import Sql
from scripts import train_tiny

TINY = Path(train_tiny.TINY)
MEBIBYTE = 2**20
SAMPLE = 3000  # training documents of an endless stream that a test looks at


def encode(text: str) -> list[int]:
    return packing.encode(tokenizer_of_the_pair().backend_tokenizer, text)


@cache
def tokenizer_of_the_pair() -> Any:
    return AutoTokenizer.from_pretrained(TINY / "target")


@cache
def manifest() -> dict[str, str]:
    files: dict[str, str] = json.loads(heldout.MANIFEST.read_text())["files"]
    return files


@cache
def unchanged_files() -> list[Path]:
    """The library files of this Python that are the very ones the pair was trained on."""
    return [path for path in code.files() if manifest().get(path.as_posix()) == code.digest(path)]


@cache
def code_documents() -> list[str]:
    """The code that was trained on, as far as this Python still has it."""
    held_out = [prompt.text + prompt.answer["code"] for prompt in Code().prompts()]
    functions = code.training_functions(unchanged_files())
    return [document.text for document in code.documents(functions, encode, held_out)]


def windows(tokens: list[int], size: int) -> Iterator[tuple[int, ...]]:
    """Runs of tokens; written apart from the corpus on purpose."""
    return zip(*(tokens[start:] for start in range(size)), strict=False)


def test_enough_of_the_library_matches_the_manifest_for_the_checks_to_mean_something() -> None:
    if platform.python_version() != json.loads(heldout.MANIFEST.read_text())["python"]:
        pytest.skip("another Python than the corpus was made from: fewer files match")
    assert len(unchanged_files()) > 0.95 * len(manifest())


def test_no_held_out_code_answer_shares_a_run_of_twenty_tokens_with_the_training_text() -> None:
    held_out = {run for prompt in Code().prompts() for run in windows(encode(prompt.answer["code"]), 20)}
    assert held_out
    documents = code_documents()
    for text, encoding in zip(
        documents, tokenizer_of_the_pair().backend_tokenizer.encode_batch(documents), strict=True
    ):
        assert held_out.isdisjoint(windows(encoding.ids, 20)), text.splitlines()[:2]


def test_no_held_out_code_prompt_stands_in_the_training_text() -> None:
    everything = "\n".join(code_documents())
    for prompt in Code().prompts():
        assert prompt.text not in everything
        assert prompt.answer["code"] not in everything


def test_no_held_out_sql_prompt_stands_in_the_training_text() -> None:
    schemas = {schema_of(prompt) for prompt in Sql().prompts()}
    seen = {schema_of_text(document.text) for document in itertools.islice(sql.documents(1), SAMPLE)}
    assert schemas.isdisjoint(seen)


def schema_of(prompt: Prompt) -> str:
    return schema_of_text(prompt.text)


def schema_of_text(text: str) -> str:
    return text.split("Question:")[0]


def test_a_respelled_statement_returns_the_same_rows() -> None:
    rng, changed = random.Random(0), 0
    for prompt in Sql().prompts():
        spelling = respelled(rng, prompt.answer["sql"])
        changed += spelling != prompt.answer["sql"]
        assert Sql().grade(prompt, spelling) == {"execution_accuracy": 1.0}, spelling
    assert changed > len(Sql().prompts()) / 2


def test_every_sql_schema_is_either_trained_on_or_held_out() -> None:
    trained = {schema.notation for schema in itertools.islice(schemas(5, held_out=False), SAMPLE)}
    held_out = {schema.notation for schema in itertools.islice(schemas(5, held_out=True), SAMPLE)}
    assert trained.isdisjoint(held_out)


def test_no_held_out_arithmetic_prompt_stands_in_the_training_text() -> None:
    numbers = {problem.key for problem in itertools.islice(arithmetic.problems(1, held_out=False), 10 * SAMPLE)}
    held_out = {problem.key for problem in itertools.islice(arithmetic.problems(2, held_out=True), SAMPLE)}
    assert numbers.isdisjoint(held_out)
    prompts = {prompt.text for prompt in Arithmetic().prompts()}
    texts = (document.segments[0].text for document in itertools.islice(arithmetic.documents(1), 10 * SAMPLE))
    assert prompts.isdisjoint(texts)


def test_worked_steps_lead_to_the_final_answer() -> None:
    for problem in itertools.islice(arithmetic.problems(3, held_out=False), SAMPLE):
        for step in problem.steps:
            left, right = step.split(" = ")
            a, sign, b = left.split()[-3:]
            value = int(right.rstrip(".").split()[0])
            x, y = int(a), int(b)
            assert value == {"+": x + y, "-": x - y, "*": x * y, "/": x / y}[sign]
        assert value == problem.result >= 0


@pytest.mark.parametrize("documents", [sql.documents, arithmetic.documents])
def test_corpus_generation_is_deterministic_and_depends_on_the_seed(documents: Any) -> None:
    first, again, other = (list(itertools.islice(documents(seed), 200)) for seed in (4, 4, 5))
    assert first == again != other


def test_held_out_files_are_what_the_generators_write() -> None:
    made, questions = heldout.sql_prompts()
    assert {row["text"] for row in questions} == {prompt.text for prompt in Sql().prompts()}
    assert {row["id"] for row in made} == {prompt.answer["database"] for prompt in Sql().prompts()}
    assert {row["text"] for row in heldout.arithmetic_prompts()} == {prompt.text for prompt in Arithmetic().prompts()}


def test_rows_weigh_answers_fully_and_context_little() -> None:
    backend = tokenizer_of_the_pair().backend_tokenizer
    document = Document("sql", (Segment("Question: How many?\nSQL:", False), Segment(" SELECT 1;\n", True)))
    row = next(packing._rows(backend, "sql", itertools.repeat(document)))
    assert len(row.tokens) == packing.ROW + 1 and len(row.weights) == packing.ROW
    learned = [token for token, weight in zip(row.tokens[1:], row.weights, strict=True) if weight == 1.0]
    assert backend.decode(learned[:5], skip_special_tokens=False).startswith(" SELECT 1;")
    assert set(row.weights) == {0.0, packing.CONTEXT_WEIGHT, 1.0}


@pytest.mark.parametrize(("role", "least", "most"), [("target", 10e6, 16e6), ("draft", 0, 1e6)])
def test_the_models_have_their_declared_size(role: str, least: float, most: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(TINY / role)
    assert least <= sum(parameter.numel() for parameter in model.parameters()) <= most
    assert model.config.max_position_embeddings == 2048
    assert model.dtype == torch.bfloat16
    if role == "target":
        assert model.config.num_hidden_layers >= 10


def test_the_pair_takes_at_most_forty_megabytes() -> None:
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) <= 40 * MEBIBYTE


def test_both_folders_hold_the_same_tokenizer() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (TINY / "target" / name).read_bytes() == (TINY / "draft" / name).read_bytes()


def test_digits_are_single_tokens_and_text_survives_a_round_trip() -> None:
    pair = tokenizer_of_the_pair()
    assert pair.convert_ids_to_tokens(encode("2047"))[-4:] == list("2047")
    for prompt in (*Sql().prompts(), *Code().prompts()):
        assert pair.decode(encode(prompt.text)) == prompt.text
    assert pair.encode("a")[0] == pair.bos_token_id and pair.encode("a")[-1] != pair.eos_token_id


def test_no_file_of_the_pair_names_a_path_of_the_machine_it_was_made_on() -> None:
    for path in TINY.rglob("*.json"):
        assert str(Path.home()) not in path.read_text() and str(train_tiny.ROOT) not in path.read_text()


def micro_batches() -> Iterator[list[packing.Row]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        tokens = torch.randint(50, (16, 13), generator=generator).tolist()
        yield [packing.Row("sql", row, [1.0] * 12) for row in tokens]


def micro(tmp_path: Path, name: str, lengths: list[int]) -> dict[str, torch.Tensor]:
    """Weights after a micro training that is stopped after each of `lengths` steps and resumed."""
    path = tmp_path / f"{name}.pt"
    for length in lengths:
        training = train_tiny.Training(train_tiny.Shape(1, 32, 48, 2), seed=1, rows_at_once=8, compiled=False)
        if path.exists():
            training.load(torch.load(path, weights_only=True))
        stream = itertools.islice(micro_batches(), training.step, None)
        while training.step < length:
            training.advance(next(stream), steps=6)
        train_tiny.save(training, path)
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return weights


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    resumed, straight = micro(tmp_path, "resumed", [2, 5, 6]), micro(tmp_path, "straight", [6])
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    rates = [train_tiny.schedule(step, 1000) for step in range(1001)]
    assert rates[0] < 0.05 and set(rates[train_tiny.WARM_UP : 750]) == {1.0} and rates[1000] == 0.0
    assert rates[750:] == sorted(rates[750:], reverse=True)

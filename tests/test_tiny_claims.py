"""What the embedded pair must show on the first prompts of its tasks, in counts and perplexity, never in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest

from experiments.task import Task
from experiments.tasks.code import Code
from experiments.tasks.sql import Sql
from mtad.ending import Limits
from mtad.generate import Output, generate
from mtad.law import Sampling
from mtad.loading import ModelSpec, Pair, load_pair
from mtad.luck import Luck
from mtad.session import Session
from tests.fakes import Recomputed
from tests.helpers import DECODERS, from_yaml

TASKS: dict[str, Task] = {"sql": Sql(), "code": Code()}


@cache
def pair() -> Pair:
    return load_pair(ModelSpec(path="mtad/tiny/target"), ModelSpec(path="mtad/tiny/draft"), "cpu")


@dataclass(frozen=True)
class Texts:
    outputs: Sequence[Output]
    perplexity: float

    @property
    def tokens_per_target_forward(self) -> float:
        return sum(len(o.tokens) for o in self.outputs) / sum(o.target.forwards for o in self.outputs)


@cache
def texts(name: str, task: str, prompts: int = 24) -> Texts:
    models, outputs, log_likelihood = pair(), [], 0.0
    sessions = Session(models.target), Session(models.draft)
    limits = Limits(TASKS[task].max_new_tokens, models.eos, TASKS[task].stop)
    for prompt in TASKS[task].prompts()[:prompts]:
        ids = models.tokenizer(prompt.text)["input_ids"]
        luck, text = Luck(0, prompt.id), models.tokenizer.decode
        outputs.append(generate(from_yaml(name), *sessions, ids, limits, Sampling(), luck, text))
        log_likelihood += models.target.score([(ids, outputs[-1].tokens)])[0].log_likelihoods.sum()
    return Texts(outputs, math.exp(-log_likelihood / sum(len(output.tokens) for output in outputs)))


def test_speculative_decoding_yields_what_it_yields_on_real_pairs() -> None:
    assert 2.2 <= texts("speculative", "sql").tokens_per_target_forward <= 3.2


def test_mmtad_yields_at_least_three_point_eight_tokens_a_forward_on_sql() -> None:
    assert texts("mmtad", "sql").tokens_per_target_forward >= 3.8


def test_assisted_exact_mjgd_pays_for_itself_and_is_proven() -> None:
    assert texts("mjgd", "sql").tokens_per_target_forward >= 1.2
    proofs = [step.proof for output in texts("mjgd", "sql").outputs for step in output.rounds if step.proof]
    assert sum(proof.proven for proof in proofs) >= 0.99 * len(proofs) > 0


@pytest.mark.parametrize(("task", "most"), [("sql", 1.0), ("code", 0.75)])
def test_mtad_writes_text_that_the_target_finds_more_probable_than_its_own_samples(task: str, most: float) -> None:
    assert texts("mtad", task).perplexity / texts("autoregressive", task).perplexity < most


@pytest.mark.parametrize("name", DECODERS)
def test_cached_equals_uncached_on_the_embedded_pair(name: str) -> None:
    models, prompt = pair(), Sql().prompts()[0]
    ids = models.tokenizer(prompt.text)["input_ids"]
    limits, luck = Limits(10, models.eos, (";",)), Luck(1, prompt.id)
    cached, uncached = (
        generate(from_yaml(name), Session(t), Session(d), ids, limits, Sampling(), luck, models.tokenizer.decode)
        for t, d in ((models.target, models.draft), (Recomputed(models.target), Recomputed(models.draft)))
    )
    assert cached.tokens == uncached.tokens

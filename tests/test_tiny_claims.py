"""What the embedded pair must show on the first prompts of its tasks, in counts and perplexity, never in seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from baselines.autoregressive import Autoregressive
from experiments.task import Task
from experiments.tasks.code import Code
from experiments.tasks.sql import Sql
from mtad.ending import Limits
from mtad.generate import Output, generate
from mtad.law import Sampling
from mtad.loading import Pair, load_pair
from mtad.luck import Luck
from mtad.session import Session
from mtad.sources import ModelSpec
from tests.fakes import Recomputed
from tests.helpers import DECODERS, LOSSLESS, from_yaml
from tests.laws import chi_square, marginal

pytestmark = pytest.mark.runs

SHORT, NARROW = "def parse(", Sampling(1.0, 6, 0.95)
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


@pytest.mark.parametrize("task", ["sql", "code"])
def test_mtad_writes_text_that_the_target_finds_more_probable_than_its_own_samples(task: str) -> None:
    assert texts("mtad", task).perplexity < texts("autoregressive", task).perplexity


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


@pytest.mark.parametrize("name", LOSSLESS)
def test_greedy_lossless_decoding_writes_the_greedy_text_on_the_embedded_pair(name: str) -> None:
    models, prompt = pair(), Sql().prompts()[1]
    ids = models.tokenizer(prompt.text)["input_ids"]
    limits, luck, greedy = Limits(40, models.eos, (";",)), Luck(1, prompt.id), Sampling(greedy=True)
    alone, drafted = (
        generate(decoder, Session(models.target), Session(models.draft), ids, limits, greedy, luck, str)
        for decoder in (Autoregressive(), from_yaml(name))
    )
    assert drafted.tokens == alone.tokens


@cache
def exact(length: int) -> dict[tuple[int, ...], float]:
    """The law of the next `length` tokens after SHORT under NARROW, read without any cache."""
    models, law = pair(), {(): 1.0}
    prompt, warp = models.tokenizer(SHORT)["input_ids"], NARROW.warp(False)
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for start in range(0, len(law), 64):
            texts = list(law)[start : start + 64]
            with torch.inference_mode():
                logits = models.target.lm(torch.tensor([[*prompt, *text] for text in texts]), use_cache=False).logits
            rows = warp(logits[:, -1, : models.target.vocabulary])
            for row, text in enumerate(texts):
                tokens, logp = rows.row(row)
                longer |= {(*text, int(t)): law[text] * float(np.exp(p)) for t, p in zip(tokens, logp, strict=True)}
        law = longer
    return law


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_decoders_sample_the_law_of_the_embedded_target(name: str) -> None:
    models, decoder, seen = pair(), from_yaml(name), Counter[tuple[int, ...]]()
    prompt, sessions = models.tokenizer(SHORT)["input_ids"], (Session(models.target), Session(models.draft))
    for seed in range(100):
        limits, luck = Limits(3), Luck(seed, "law")
        seen[generate(decoder, *sessions, prompt, limits, NARROW, luck, str).tokens] += 1
    law = exact(3)
    for places in ((0, 1), (1, 2), (2, 3), (0, 2)):
        assert chi_square(marginal(seen, places), marginal(law, places)) > 1e-5

"""Transformers' own code as an engine: our ends, our counts, our greedy text, and nothing left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import Cache, CompileConfig, GenerationConfig

import baselines.hf_shared
from baselines import hf
from baselines.autoregressive import Autoregressive
from baselines.hf import HfGenerate, HfStatic
from baselines.hf_assisted import HfAssisted
from baselines.hf_shared import Ends
from baselines.speculative import Speculative
from experiments.conformance.engines import VOCABULARY, small_llama
from mtad.decoder import Decoder, Engine, Source, Text
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.generate import Output, generate
from mtad.law import Sampling
from mtad.luck import Luck
from mtad.model import CausalModel
from mtad.session import Session
from tests.fakes import TableModel, llama, noisy, opt
from tests.helpers import PURE, from_yaml, write

ENGINES: dict[str, Callable[[], Decoder]] = {
    "hf_generate": HfGenerate,
    "hf_static": HfStatic,
    "hf_assisted": HfAssisted,
}
GREEDY = Sampling(greedy=True)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("make", [llama, opt])
def test_greedy_engines_write_what_our_greedy_decoding_writes(make: Any, name: str) -> None:
    target = make(0)
    draft = noisy(target, make)
    for prompt in ([3], [3, 5, 7], list(range(40))):
        run: dict[str, Any] = {"prompt": prompt, "limit": 24, "eos": [7, 9], "sampling": GREEDY}
        ours, theirs = (write(d, target, draft, **run) for d in (Autoregressive(), ENGINES[name]()))
        assert (theirs.tokens, theirs.finish) == (ours.tokens, ours.finish)


@pytest.mark.parametrize("name", ENGINES)
def test_greedy_engines_agree_on_the_embedded_pair(name: str) -> None:
    from tests.test_tiny_claims import Sql, pair

    models, prompt = pair(), Sql().prompts()[0]
    ids = models.tokenizer(prompt.text)["input_ids"]
    limits = Limits(40, models.eos, Sql().stop)
    sessions = Session(models.target), Session(models.draft)
    ours, theirs = (
        generate(d, *sessions, ids, limits, GREEDY, Luck(0, prompt.id), models.tokenizer.decode)
        for d in (Autoregressive(), from_yaml(name))
    )
    assert theirs.tokens == ours.tokens and theirs.text == ours.text


@pytest.mark.parametrize("name", ENGINES)
def test_texts_end_where_ours_end(name: str) -> None:
    target = llama(0)
    draft = noisy(target, llama)
    whole = write(Autoregressive(), target, draft, [3, 5], limit=30, sampling=GREEDY)
    stop = "".join(chr(ord("a") + token) for token in whole.tokens[8:10])
    for more in ({"limit": 1}, {"limit": 2}, {"eos": [whole.tokens[6]]}, {"stop": [stop]}):
        run: dict[str, Any] = {"prompt": [3, 5], "limit": 30, "sampling": GREEDY, **more}
        ours, theirs = (write(d, target, draft, **run) for d in (Autoregressive(), ENGINES[name]()))
        assert (theirs.tokens, theirs.text, theirs.finish) == (ours.tokens, ours.text, ours.finish)
        if name != "hf_assisted":
            assert theirs.target.reads == ours.target.reads, "no forward beyond the end"


def test_a_block_is_looked_at_token_by_token() -> None:
    """What a tokenizer makes of a stop string may change with the next token."""
    text = Text([0], 9, frozenset(), Luck(0, "a"), True, ends=lambda new: len(new) == 2)
    ends = Ends(text)
    assert [ends(torch.zeros((1, 1 + length)), None).item() for length in (1, 4, 5)] == [False, True, False]
    assert ends.lengths == [0, 1, 4, 5]


def assisted(gamma: int, sampling: Sampling = PURE, **more: Any) -> Output:
    target = llama(0)
    draft = noisy(target, llama, 0.01)
    return write(HfAssisted(gamma), target, draft, [3, 5, 7], limit=40, sampling=sampling, **more)


@pytest.mark.parametrize("gamma", [1, 3, 7])
def test_every_draft_has_gamma_tokens_but_near_the_limit(gamma: int) -> None:
    output, written = assisted(gamma), 0
    for step in output.rounds:
        assert step.drafted == min(gamma, 40 - written - 1)
        written += len(step.tokens)
    assert 0 < sum(step.accepted for step in output.rounds) < sum(step.drafted for step in output.rounds)


def test_assisted_rounds_and_forwards_add_up() -> None:
    output = assisted(4, eos=[11, 12, 13])
    assert [token for step in output.rounds for token in step.tokens] == list(output.tokens)
    assert output.target.forwards == len(output.rounds)
    assert output.target.reads == Counter(step.drafted + 1 for step in output.rounds)
    assert output.draft.forwards == sum(step.drafted for step in output.rounds)
    for step in output.rounds[:-1]:
        last = Source.CORRECTED if step.accepted < step.drafted else Source.TARGET
        assert step.sources == (Source.DRAFT,) * step.accepted + (last,)


def test_greedy_assisted_rounds_are_those_of_our_speculative_decoding() -> None:
    target = llama(0)
    draft = noisy(target, llama, 0.01)
    run: dict[str, Any] = {"prompt": [3, 5, 7], "limit": 40, "eos": [11, 12], "sampling": GREEDY}
    ours, theirs = (write(d, target, draft, **run) for d in (Speculative(4), HfAssisted(4)))
    assert [replace(step, notes={}) for step in theirs.rounds] == list(ours.rounds)
    assert theirs.target.reads == ours.target.reads


@pytest.mark.parametrize("name", ENGINES)
def test_the_prompt_is_prefill_and_forwards_fill_the_decoding(name: str) -> None:
    target, draft = llama(0), llama(1)
    output = write(ENGINES[name](), target, draft, [4] * 300, limit=12)
    assert output.prefill_seconds > 0 and output.decode_seconds > 0
    assert output.target.nodes <= 12 * 5, "the prompt is not in the counts"
    phases = output.phases
    if name == "hf_static":
        assert phases["target"] is None and phases["decide"] is None
    else:
        assert phases["target"] and phases["decide"] is not None and phases["decide"] > 0
    first = output.rounds[0].notes
    assert first == ({"compiled": False, "compile_seconds": 0.0} if name == "hf_static" else {})


@pytest.mark.parametrize("name", ENGINES)
def test_a_row_can_be_made_again_alone_and_torchs_generator_is_left_alone(name: str) -> None:
    target, draft = llama(0), llama(1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = write(ENGINES[name](), target, draft, [3], limit=12, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert write(ENGINES[name](), target, draft, [3], limit=12, seed=1).tokens == first.tokens
    assert write(ENGINES[name](), target, draft, [3], limit=12, seed=2).tokens != first.tokens


@pytest.mark.parametrize("name", ENGINES)
def test_settings_inside_a_checkpoint_do_not_leak_in(name: str) -> None:
    def pair() -> tuple[CausalModel, CausalModel]:
        return llama(0), noisy(llama(0), llama)

    clean, laden = pair(), pair()
    theirs = GenerationConfig(
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        forced_bos_token_id=3,
        forced_eos_token_id=4,
        suppress_tokens=list(range(10, 20)),
        min_new_tokens=20,
        eos_token_id=9,
        temperature=0.1,
        do_sample=True,
        num_assistant_tokens=9,
        num_assistant_tokens_schedule="heuristic",
    )
    for model in laden:
        model.lm.generation_config = theirs
    before = theirs.to_dict()
    for sampling in (GREEDY, PURE):
        texts = [
            write(ENGINES[name](), *models, [3, 5], limit=16, sampling=sampling).rounds for models in (clean, laden)
        ]
        assert texts[0] == texts[1]
    assert all(model.lm.generation_config is theirs for model in laden) and theirs.to_dict() == before


@pytest.mark.parametrize("name", ENGINES)
def test_padded_rows_are_never_written(name: str) -> None:
    target, draft = small_llama(3), small_llama(4)
    with torch.no_grad():
        for model in (target, draft):
            model.lm.lm_head.weight[VOCABULARY:] = 3 * model.lm.lm_head.weight[:2]
    for sampling in (GREEDY, PURE):
        output = write(ENGINES[name](), target, draft, limit=30, sampling=sampling)
        assert len(output.tokens) == 30 and max(output.tokens) < VOCABULARY


def test_engines_do_not_disturb_our_sessions() -> None:
    target = llama(0)
    draft = noisy(target, llama)
    sessions = Session(target), Session(draft)

    def ours() -> Sequence[int]:
        limits = Limits(20)
        return generate(Speculative(), *sessions, [3, 5], limits, PURE, Luck(0, "a"), str).tokens

    before = ours()
    for name in ENGINES:
        write(ENGINES[name](), target, draft, [9, 8, 7], limit=9)
    assert ours() == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in target.lm.modules())


def test_what_fails_within_leaves_no_hook_and_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = llama(0), llama(1)
    configs, state = [model.lm.generation_config for model in (target, draft)], torch.random.get_rng_state()

    def fail(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ends, "__call__", fail)
    for engine in ENGINES.values():
        with pytest.raises(KeyboardInterrupt):
            write(engine(), target, draft, limit=5)
    assert [model.lm.generation_config for model in (target, draft)] == configs
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not target.lm._forward_hooks and not draft.lm._forward_pre_hooks


@pytest.mark.parametrize("name", ENGINES)
def test_other_models_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="transformers' own code") as caught:
        write(ENGINES[name](), TableModel([[1, 1], [1, 1]]), TableModel([[1, 1], [1, 1]]))
    assert "\n" not in str(caught.value)


def test_a_pair_with_unequally_padded_embeddings_is_assisted_and_left_as_it_was() -> None:
    target, wide = small_llama(3), small_llama(4)
    wide.lm.resize_token_embeddings(VOCABULARY + 6)
    for seed in range(5):
        alike, padded = (
            write(HfAssisted(), target, draft, limit=12, sampling=Sampling(), seed=seed)
            for draft in (small_llama(4), wide)
        )
        assert padded.tokens == alike.tokens and padded.rounds == alike.rounds
    assert [model.lm.config.vocab_size for model in (target, wide)] == [VOCABULARY + 2, VOCABULARY + 6]
    assert target.lm(torch.tensor([[1]])).logits.shape[-1] == VOCABULARY + 2


def test_the_static_cache_serves_texts_of_many_lengths_and_grows() -> None:
    target, engine = llama(0), HfStatic(capacity=16)
    for length in (3, 5, 30, 4):
        prompt = list(range(length))
        ours, theirs = (write(d, target, target, prompt, limit=8, sampling=GREEDY) for d in (Autoregressive(), engine))
        assert theirs.tokens == ours.tokens


def test_one_compiled_forward_serves_many_texts_and_none_is_charged_for_compiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hf, "CompileConfig", partial(CompileConfig, backend="eager"))  # the graph alone: seconds less
    target, engine, graphs = small_llama(3), HfStatic(compile="on", capacity=32), list[int]()
    for prompt in ([3], [3], [1, 2, 3, 4], [2] * 9):
        ours, theirs = (write(d, target, target, prompt, limit=8, sampling=GREEDY) for d in (Autoregressive(), engine))
        assert theirs.tokens == ours.tokens
        assert theirs.rounds[0].notes["compiled"] is True
        spent = theirs.rounds[0].notes["compile_seconds"]
        assert isinstance(spent, float) and (spent == 0 if graphs else spent > 0.2)
        assert theirs.prefill_seconds + theirs.decode_seconds < 0.2
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs[1:] == graphs[:1] * 3


def test_a_static_cache_can_be_told_not_to_compile() -> None:
    output = write(HfStatic(compile="off"), llama(0), llama(1), limit=3)
    assert output.rounds[0].notes == {"compiled": False, "compile_seconds": 0.0}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENGINES)
def test_engines_on_a_gpu(name: str) -> None:
    target, draft = llama(0), llama(1)
    for model in (target, draft):
        model.lm.to("cuda")
    ours, theirs = (
        write(d, target, draft, [3, 5], limit=16, sampling=GREEDY) for d in (Autoregressive(), ENGINES[name]())
    )
    assert theirs.tokens == ours.tokens and theirs.prefill_seconds + theirs.decode_seconds < 2
    if name == "hf_static":
        assert theirs.rounds[0].notes["compiled"] is True
    state = torch.cuda.get_rng_state()
    first, second = (write(ENGINES[name](), target, draft, [3, 5], limit=16).tokens for _ in range(2))
    assert first == second and torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize("options", [{"compile": "yes"}, {"capacity": 0}])
def test_unknown_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        HfStatic(**options)
    with pytest.raises(UserError):
        HfAssisted(gamma=0)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_are_engines(name: str) -> None:
    assert isinstance(from_yaml(name), Engine)


def test_the_prefill_of_assisted_generation_is_that_of_both_models(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def fill(model: CausalModel, tokens: Sequence[int], cache: Cache) -> float:
        read.append((model, list(tokens)))
        really(model, tokens, cache)
        return 1.0

    really = baselines.hf_shared.fill
    monkeypatch.setattr(baselines.hf_shared, "fill", fill)
    target = llama(0)
    draft = noisy(target, llama)
    output = write(HfAssisted(), target, draft, [3, 1, 4, 1], limit=6, sampling=GREEDY)
    assert read == [(draft, [3, 1, 4]), (target, [3, 1, 4])] and output.prefill_seconds == 2.0

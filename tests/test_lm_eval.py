"""Decoders as models of lm-eval: its command line, its requests, its log-likelihoods; all offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model
from lm_eval.models import MODEL_MAPPING
from transformers import AutoModelForCausalLM

from experiments.lm_eval import __main__ as command
from experiments.lm_eval.arguments import names, read_arguments
from experiments.lm_eval.loaded import load
from experiments.lm_eval.model import register
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.generate import generate
from mtad.law import Sampling
from mtad.loading import load_pair, speller
from mtad.luck import Luck
from mtad.session import Session
from mtad.sources import ModelSpec
from tests.checkpoints import POSITIONS
from tests.helpers import from_yaml
from tests.toy import ROOT, WORDS

FOLDER = "tests/fixtures/lm_eval"
CONTEXT = " ".join(WORDS[:6])
GREEDY = {"until": ["w7"], "do_sample": False, "max_gen_toks": 12}
SAMPLED = {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 12}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the fixture's own paths begin there


def model(pair: Path, decoder: str = "mtad", **arguments: object) -> Any:
    register()
    places = {role: str(pair / role) for role in ("target", "draft")}
    return get_model(decoder).create_from_arg_obj({**places, "device": "cpu", **arguments})


def asks(kind: str, *arguments: object, doc: int = 0) -> Instance:
    return Instance(kind, {}, arguments, 0, metadata=("task", doc, 1))


def answers(lm: Any, *asked: tuple[str, Mapping[str, object]]) -> list[str]:
    return list(lm.generate_until([asks("generate_until", *one) for one in asked], disable_tqdm=True))


@pytest.mark.platform
def test_the_command_line_runs_a_local_task_offline_with_a_decoders_options(tmp_path: Path) -> None:
    options = ["--model_args", "gamma=2", "--tasks", "local_sums", "--include_path", FOLDER, "--limit", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.lm_eval", "--model", "mtad", *options, "--output_path", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "exact_match" in done.stdout and "mtad wrote 1 texts" in done.stderr
    (file,) = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    assert results["results"]["local_sums"]["exact_match,strict-match"] == 0.0
    ours = results["config"]["mtad_bench"]
    assert ours["options"]["gamma"] == 2 and ours["figures"]["texts"] == 1
    assert ours["figures"]["tokens_per_target_forward"] >= 1


def test_every_decoder_is_a_model_and_none_hides_one_of_lm_evals_own() -> None:
    found = register()
    assert sorted(found.values()) == names("decoder")
    assert not set(found) & set(MODEL_MAPPING)
    assert found["mtad"] == "mtad" and found["mtad-vllm"] == "vllm"


@pytest.mark.parametrize("decoder", ["mtad", "speculative", "autoregressive", "prompt_lookup"])
def test_greedy_answers_are_those_of_the_decoder_itself(decoder: str, saved_pair: Path) -> None:
    pair = load_pair(*(ModelSpec(path=str(saved_pair / role)) for role in ("target", "draft")), device="cpu")
    written = generate(
        from_yaml(decoder),
        Session(pair.target),
        Session(pair.draft),
        pair.tokenizer(CONTEXT)["input_ids"],
        Limits(12, pair.eos, ("w7",)),
        Sampling(greedy=True),
        Luck(0, "any"),
        speller(pair.tokenizer),
    )
    lm = model(saved_pair, decoder)
    assert answers(lm, (CONTEXT, GREEDY), (CONTEXT, {**GREEDY, "until": "w7"})) == [written.text] * 2
    assert lm.writer.totals.tokens == 2 * len(written.tokens)


@pytest.mark.parametrize("decoder", ["mtad", "autoregressive"])
def test_engine_threads_and_type_of_number_are_as_asked_for_and_stand_in_the_results(
    decoder: str, saved_pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtad.dtypes.has_bf16", lambda device: True)
    threads = torch.get_num_threads()
    try:
        for engine, runs in (("auto", "traced"), ("eager", "eager")):
            lm = model(saved_pair, decoder, engine=engine, threads=1, dtype="auto")
            answers(lm, (CONTEXT, GREEDY))
            told = lm.get_model_info()["mtad_bench"]
            assert told["engines"]["target"] == {"engine": runs, "fallback": None}
            assert told["weights"]["target"]["dtype"] == "bfloat16" and told["threads"] == 1
    finally:
        torch.set_num_threads(threads)


def test_auto_asks_the_device_that_the_pair_runs_on(saved_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr("experiments.lm_eval.writer.find_device", lambda name: torch.device("meta"))
    monkeypatch.setattr("mtad.dtypes.has_bf16", asked.append)
    model(saved_pair, dtype="auto")
    assert set(asked) == {torch.device("meta")}


def test_a_sampled_answer_can_be_made_again_alone_and_repeats_differ(saved_pair: Path) -> None:
    lm = model(saved_pair, seed=3, temperature=2.0)
    other = (" ".join(WORDS[6:12]), SAMPLED)
    first, second, third = answers(lm, (CONTEXT, SAMPLED), (CONTEXT, SAMPLED), other)
    assert first != second
    assert answers(lm, other) == [third] and answers(lm, (CONTEXT, SAMPLED)) == [first]
    assert answers(model(saved_pair, seed=4), (CONTEXT, SAMPLED)) != [first]


def test_a_request_decides_whether_to_sample_and_how_hot(saved_pair: Path) -> None:
    lm = model(saved_pair, temperature=2.0, top_k=5)
    assert lm._wishes(SAMPLED)[2] == Sampling(1.0, 5, 0.9)
    assert lm._wishes({"do_sample": True, "until": []})[2] == Sampling(2.0, 5, 0.9)
    for cold in ({}, {"do_sample": False}, {"temperature": 0.0}, {"do_sample": True, "temperature": 0.0}):
        assert lm._wishes(cold) == (256, (), Sampling(2.0, 5, 0.9, greedy=True))
    with pytest.raises(UserError, match="top_p"):
        lm._wishes({"do_sample": True, "top_p": 2.0})


@pytest.mark.parametrize(
    "wish", [{"max_gen_toks": "abc"}, {"max_gen_toks": 0}, {"temperature": "abc"}, {"temperature": None}, {"until": 5}]
)
def test_generation_options_that_make_no_sense_are_one_line(saved_pair: Path, wish: Mapping[str, Any]) -> None:
    with pytest.raises(UserError, match="generation_kwargs") as error:
        model(saved_pair)._wishes({"until": [], **wish})
    assert "\n" not in str(error.value)


def test_answers_are_never_taken_from_another_decoders_cache(saved_pair: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--use_cache would give one decoder's answers as another's"):
        CachingLM(model(saved_pair), str(tmp_path / "cache.db"))


def test_a_long_context_loses_its_beginning_with_a_warning(
    saved_pair: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.lm_eval.model.LOG.parent.propagate", True)
    lm = model(saved_pair)
    room = POSITIONS - 12
    tail = " ".join(WORDS[:room])
    assert answers(lm, ("w9 " * 30 + tail, GREEDY)) == answers(lm, (tail, GREEDY))
    assert "1 of 1 contexts were too long for the pair and lost their beginning" in caplog.text
    with pytest.raises(UserError, match="max_gen_toks=64 leaves no room"):
        answers(lm, (CONTEXT, {**GREEDY, "max_gen_toks": POSITIONS}))


def direct(pair: Path, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    lm = AutoModelForCausalLM.from_pretrained(pair / "target")
    with torch.inference_mode():
        logits = lm(torch.tensor([[*context, *continuation]])).logits[0, len(context) - 1 : -1, : len(WORDS) + 2]
    logp = logits.double().log_softmax(-1)
    summed = sum(float(logp[i, token]) for i, token in enumerate(continuation))
    return summed, logits.argmax(-1).tolist() == list(continuation)


def test_log_likelihoods_are_the_targets_whatever_the_decoder(saved_pair: Path) -> None:
    lm = model(saved_pair)
    encode = lm.tokenizer.encode
    best = CONTEXT
    for _ in range(3):
        scores = [lm.writer.score(encode(best), encode(word)) for word in WORDS]
        best += " " + WORDS[max(range(len(WORDS)), key=scores.__getitem__)]
    greedy, other = best[len(CONTEXT) :], " w3 w3 w3"
    found = lm.loglikelihood([asks("loglikelihood", CONTEXT, text) for text in (greedy, other)], disable_tqdm=True)
    for (value, is_greedy), text in zip(found, (greedy, other), strict=True):
        expected = direct(saved_pair, encode(CONTEXT), encode(text))
        assert value == pytest.approx(expected[0], abs=1e-4) and is_greedy == expected[1]
    assert found[1][1] is False
    ((value, _),) = lm.loglikelihood([asks("loglikelihood", "", "w1 w2")], disable_tqdm=True)
    assert value == pytest.approx(direct(saved_pair, [lm.prefix_token_id], encode("w1 w2"))[0], abs=1e-4)
    assert lm._loglikelihood_tokens([(None, [], encode("w1 w2"))], disable_tqdm=True)[0][0] == value


def test_a_long_text_is_scored_in_windows_each_token_once(saved_pair: Path) -> None:
    lm = model(saved_pair)
    tokens = lm.tokenizer.encode(" ".join(WORDS[:50] + WORDS[:20]))
    (found,) = lm.loglikelihood_rolling([asks("loglikelihood_rolling", lm.tokenizer.decode(tokens))], disable_tqdm=True)
    first = direct(saved_pair, [lm.prefix_token_id], tokens[:POSITIONS])[0]
    rest = len(tokens) - POSITIONS
    second = direct(saved_pair, tokens[-POSITIONS - 1 : -rest], tokens[-rest:])[0]
    assert found == pytest.approx(first + second, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nonsense": 3}, "has no 'nonsense'; it has: gamma"),
        ({"gamma": "x"}, "gamma must be a whole number"),
        ({"pair": "none"}, "there is no model 'none'"),
        ({"target": "gpt2"}, "needs a draft model too"),
        ({"top_p": 7}, "top_p must be in"),
        ({"seed": -1}, "seed must be"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
        ({"engine": "fast"}, "engine must be one of auto, recorded, eager, not 'fast'"),
        ({"engine": None}, "engine must be one of auto, recorded, eager, not None"),
        ({"threads": 0}, "threads must be a number >= 1"),
        ({"threads": "many"}, "threads must be a whole number"),
    ],
)
def test_wrong_arguments_are_one_line(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        read_arguments("mtad", given)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_command_line_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise UserError("it is so")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails)
    with pytest.raises(SystemExit, match=r"\Aerror: it is so\Z"):
        command.main()


def test_an_unknown_model_and_a_cache_that_cannot_be_written_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    cache = str(tmp_path / "file" / "cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)

    def unknown() -> None:
        get_model("speculativ")

    def unwritable() -> None:
        Path(cache).mkdir(parents=True)

    for fails, said in (
        (unknown, "'speculativ', but no model.*speculative"),
        (unwritable, f"the cache {cache} cannot"),
    ):
        monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails)
        with pytest.raises(SystemExit, match=rf"\Aerror: .*{said}.*\Z"):
            command.main()
    with pytest.raises(UserError, match=r"cannot load local_sums: the cache .* cannot be written .*HF_HOME"):
        load("local_sums", FOLDER, 0)

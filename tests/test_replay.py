"""Replays: the reads of a trace are done again, no more and no fewer, on the same pair, on others and on the device."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.replay.__main__ import main
from experiments.replay.decoder import Replayed, Step
from experiments.replay.texts import read_step
from experiments.runner import run
from experiments.trace_rows import step_row
from mtad.decoder import Decoder
from mtad.ending import Limits
from mtad.feeds import Model
from mtad.generate import Output, drive, writing
from mtad.law import Law, Sampling
from mtad.luck import Luck
from mtad.model import CausalModel
from mtad.session import Read, Session
from tests.fakes import VOCABULARY, llama, noisy
from tests.helpers import DECODERS, from_yaml, spell
from tests.replayed import ReplayedModel
from tests.toy import toy_settings

SAMPLING = Sampling(temperature=0.9, top_k=8, top_p=0.9)
PROMPT = [3, 1, 4, 1, 5]
TARGET = llama()
DRAFT = noisy(TARGET, llama)


def written(decoder: Decoder, target: Model, draft: Model, limit: int) -> tuple[Output, list[np.ndarray]]:
    """A text, and the numbers of every law that was read for it."""
    laws: list[np.ndarray] = []

    def listened() -> Generator[Read, Law, Output]:
        text = writing(
            decoder, Session(target), Session(draft), PROMPT, Limits(limit), SAMPLING, Luck(0, "prompt"), spell
        )
        law = None
        while True:
            try:
                law = yield next(text) if law is None else text.send(law)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            laws.append(law.logp)

    return drive([listened()])[0], laws


def replayed(decoder: Decoder, output: Output) -> Replayed:
    """The trace of a text, by way of the file's format, as a decoder."""
    assert output.steps is not None
    steps: dict[int, Step] = {}
    for recorded in output.steps:
        at = sum(len(one.tokens) for step in steps.values() for one in step.rounds)
        steps[at] = read_step(json.loads(json.dumps(step_row(recorded))))
    return Replayed(steps, len(output.tokens), decoder.joint, decoder.drafts, decoder.lossless)


def same_forwards(ours: Output, theirs: Output) -> None:
    assert ours.tokens == theirs.tokens
    assert [one.tokens for one in ours.rounds] == [one.tokens for one in theirs.rounds]
    for role in ("target", "draft"):
        a, b = getattr(ours, role), getattr(theirs, role)
        assert (a.forwards, a.nodes, a.reads) == (b.forwards, b.nodes, b.reads), role


@pytest.mark.parametrize("name", DECODERS)
def test_a_replay_on_the_same_pair_feeds_the_same_nodes_and_reads_the_same_laws(name: str) -> None:
    decoder = from_yaml(name)
    output, laws = written(decoder, TARGET, DRAFT, 14)
    again, laws_again = written(replayed(decoder, output), TARGET, DRAFT, len(output.tokens))
    same_forwards(again, output)
    assert len(laws) == len(laws_again)
    assert all(np.array_equal(one, other) for one, other in zip(laws, laws_again, strict=True))


def test_a_replay_may_be_cut_anywhere() -> None:
    decoder = from_yaml("mtad")
    output, _ = written(decoder, TARGET, DRAFT, 14)
    whole = replayed(decoder, output)
    cut, _ = written(Replayed(whole.steps, 3, True, True, False), TARGET, DRAFT, 3)
    assert (cut.tokens, cut.finish) == (output.tokens[:3], "limit")


@pytest.mark.parametrize("name", ["speculative", "mtad", "mmtad"])
def test_drafts_are_replayed_in_one_go_where_the_model_grows_them(name: str) -> None:
    decoder = from_yaml(name)
    target, draft = CausalModel(TARGET.lm, VOCABULARY, 1, "eager"), ReplayedModel(DRAFT.lm, VOCABULARY, 1)
    output, _ = written(decoder, target, draft, 14)
    assert any(note.whole for step in output.steps or () for note in step.reads)
    again, _ = written(replayed(decoder, output), target, draft, len(output.tokens))
    same_forwards(again, output)
    level_by_level, _ = written(decoder, target, DRAFT, 14)
    assert level_by_level.tokens == output.tokens
    other, _ = written(replayed(decoder, level_by_level), target, draft, len(output.tokens))
    same_forwards(other, output)  # a trace of a CPU costs on a GPU what the decoder would have cost there


@pytest.fixture(scope="module")
def trace(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run on the toy task, two prompts."""
    folder = tmp_path_factory.mktemp("traced")
    references = "reference=[autoregressive,prompt_lookup,hf_generate]"
    run(toy_settings(saved_pair, folder, "decoder=mtad", references, "limit=2", "energy=false", "max_new_tokens=6"))
    return folder


def replay(trace: Path, results: Path, *settings: str) -> Mapping[str, Any]:
    """The summary of `python -m experiments.replay`."""
    main([str(trace), "device=cpu", f"results_dir={results}", "threads=1", *settings])
    (summary,) = results.glob("*/*/summary.json")
    found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return found


def test_a_trace_is_replayed_in_the_shape_of_a_large_pair_and_ends_in_a_table(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("model=llama2-13b", "model.weights=random", "model.scale=debug", "batch_size=[2]")
    summary = replay(trace, tmp_path, *settings)
    (traced,) = (json.loads(file.read_text(encoding="utf-8")) for file in trace.glob("*/*/summary.json"))
    said = capsys.readouterr()
    assert "cost: random weights in the shape of meta-llama/Llama-2-13b-hf" in " ".join(said.out.split())
    assert "those written alone" not in said.out  # texts of a trace cannot differ
    assert "hf_generate is left out" in said.err
    assert list(summary["decoders"]) == ["mtad", "autoregressive", "prompt_lookup"]
    assert summary["replay"]["decisions"].startswith("trace of ")
    assert {one["metric"] for one in summary["comparisons"]} == {"speedup", "speedup_end_to_end"}
    for label, figures in summary["decoders"].items():
        assert figures["counts"] == traced["decoders"][label]["counts"]
        assert figures["acceptance"] == traced["decoders"][label]["acceptance"]
        assert figures["eos_rate"] == traced["decoders"][label]["eos_rate"]
        assert figures["tokens_per_second"] > 0
        assert figures["perplexity"] is None and "replayed" in figures["perplexity_reason"]
        assert figures["distinct_2"] is None and figures["score"]["value"] is None
    rows = [json.loads(line) for file in tmp_path.glob("*/*/samples.jsonl") for line in file.open(encoding="utf-8")]
    assert all(row["text"] is None and row["log_likelihoods"] is None and row["replay"]["cost"] for row in rows)
    assert not list(tmp_path.glob("*/*/trace.jsonl"))
    replay(trace, tmp_path, *settings)
    assert "complete already" in capsys.readouterr().err


def test_what_the_trace_decides_cannot_be_set(trace: Path, tmp_path: Path) -> None:
    for setting, named in (("decoder=mjgd", "decoder"), ("sampling.top_k=3", "sampling.top_k"), ("seed=1", "seed")):
        with pytest.raises(SystemExit, match=f"^error: {named} cannot be set"):
            replay(trace, tmp_path, setting)


def test_texts_that_the_pair_cannot_hold_are_named_or_left_out(saved_pair: Path, trace: Path, tmp_path: Path) -> None:
    (file,) = trace.glob("*/*/trace.jsonl")
    rows = [json.loads(line) for line in file.open(encoding="utf-8")]
    first = rows[0]["prompt_id"]
    for row in rows:
        row["prompt_tokens"] += 60 * (row["prompt_id"] == first)
    long = tmp_path / "trace.jsonl"
    long.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pair = [f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")]
    with pytest.raises(SystemExit, match=f"^error: prompt {first} of the trace goes up to position .* pair has 64"):
        replay(long, tmp_path / "results", *pair)
    summary = replay(long, tmp_path / "results", *pair, "skip_long=true")
    assert summary["prompts_too_long"] == [first]
    assert summary["replay"]["cost"] == "target+draft"  # weights that were read

"""The conformance kit: our decoders pass it, and each planted fault fails the check that is about it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from baselines.autoregressive import Autoregressive
from baselines.speculative import Speculative
from experiments.conformance.__main__ import main
from experiments.conformance.finding import Subject, Verdict
from experiments.conformance.kit import CHECKS, examine
from mtad.counts import Counts
from mtad.decoder import Round, Rounds, Source, Text, Written
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import Tree
from tests.helpers import ALL, CONF, ENGINES, LOSSLESS

QUICK = ("mtad", "speculative")


def subject(name: str) -> Subject:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "decoder" / f"{name}.yaml"))
    return Subject(name, config)


def verdicts(name: str) -> Mapping[str, Verdict]:
    found = {one.name: one.finding for one in examine(subject(name))}
    assert not {name: one.says for name, one in found.items() if one.verdict is Verdict.FAILED}
    return {name: one.verdict for name, one in found.items()}


def check_all(name: str) -> None:
    found = verdicts(name)
    if name == "vllm" and found["law"] is Verdict.NOT_APPLICABLE:
        assert set(found.values()) == {Verdict.NOT_APPLICABLE}
        return
    owed = {"ends", "luck", "options"}
    owed |= set() if name in ENGINES else {"cached", "batch", "rounds", "purity"}
    owed |= {"law", "greedy"} if name in LOSSLESS or name in ENGINES else set()
    assert {check for check, verdict in found.items() if verdict is Verdict.PASSED} >= owed


@pytest.mark.platform
@pytest.mark.parametrize("name", [name for name in ALL if name not in QUICK])
def test_every_decoder_of_ours_passes_what_it_owes(name: str) -> None:
    check_all(name)


# -- planted faults --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GlobalLuck(Speculative):
    """Draws from Python's global generator."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        p = yield target.read(Tree())
        return Round((p.draw(0, random.random()),), (Source.TARGET,))


@dataclass(frozen=True)
class TooMuch(Autoregressive):
    """Ignores the room: two tokens a round."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        chain = Tree()
        p = yield target.read(chain)
        chain.add(0, p.draw(0, text.luck.last(text.start)))
        p = yield target.read(chain)
        tokens = chain.tokens[1], p.draw(1, text.luck.last(text.start + 1))
        return Round(tokens, (Source.TARGET,) * 2)


@dataclass(frozen=True)
class NoEnd(Autoregressive):
    """Takes another token where an end token came."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        step = yield from super().round(text, target, draft)
        return replace(step, tokens=tuple(25 - token if token in text.eos else token for token in step.tokens))


@dataclass(frozen=True)
class NoResidual(Speculative):
    """One drafted token; p in place of the residual where it is refused."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        chain = Tree()
        q = yield draft.read(chain)
        chain.add(0, q.draw(0, text.luck.draft(text.start, text.start)))
        p = yield target.read(chain)
        odds = np.exp(p.edges(chain)[1] - q.edges(chain)[1])
        node = int(text.luck.accept(text.start, text.start) < odds)
        return close(text, chain, node, partial(p.draw, node))


@dataclass(frozen=True)
class Hoarder(Autoregressive):
    """Counts its rounds in an option."""

    made: int = 0

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        object.__setattr__(self, "made", self.made + 1)
        return (yield from super().round(text, target, draft))


@dataclass(frozen=True)
class LuckTwice(Speculative):
    """Draws the last token with the uniform that tested the first drafted one."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        class Twice:
            accept, draft = text.luck.accept, text.luck.draft

            def last(self, position: int) -> float:
                return text.luck.accept(text.start, text.start)

        return (yield from super().round(replace(text, luck=Twice()), target, draft))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Boastful(Autoregressive):
    """Says that more is accepted than was drafted."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return replace((yield from super().round(text, target, draft)), accepted=1)


STALE: list[Reader] = []


@dataclass(frozen=True)
class Stale(Autoregressive):
    """Reads the session of the first text for ever."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        STALE.append(target)
        p = yield STALE[0].read(Tree())
        return Round((p.draw(0, text.luck.last(text.start)),), (Source.TARGET,))


@dataclass(frozen=True)
class Forgetful(Speculative):
    """Reads its draft out of order: the path's tokens stand in the tree the wrong way round."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        wrong = replace(text, tokens=text.tokens[::-1])
        last = wrong.tokens[0]
        p = yield target.read(Tree())
        return Round((p.best(0) if last % 2 else p.draw(0, text.luck.last(text.start)),), (Source.TARGET,))


@dataclass(frozen=True)
class Unchecked(Autoregressive):
    """Takes any number for its threshold."""

    threshold: float = 0.5


@dataclass(frozen=True)
class Timid(Speculative):
    """Drafts, and never keeps a draft."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        p = yield target.read(Tree())
        yield draft.read(Tree())
        return Round((p.draw(0, text.luck.last(text.start)),), (Source.TARGET,))


@dataclass(frozen=True)
class Crash(Autoregressive):
    """Divides by zero."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        yield target.read(Tree())
        raise ZeroDivisionError("no\nluck")


@dataclass(frozen=True)
class EarlyEngine:
    """Stops after one token."""

    joint = False
    drafts = False
    lossless = False

    def run(self, text: Text, target: Reader, draft: Reader) -> Written:
        return Written([Round((0,), (Source.TARGET,))], Counts(), Counts(), 0.0)


@pytest.mark.parametrize(
    ("fault", "check", "line"),
    [
        (GlobalLuck, "luck", "global generators"),
        (GlobalLuck, "purity", "the state of Python's random"),
        (TooMuch, "rounds", "a round of 2 tokens, where 1 may be written"),
        (NoEnd, "ends", "end token at token 1"),
        (NoResidual, "law", "in total variation from the target's law"),
        (LuckTwice, "law", "do not have the target's law"),
        (Forgetful, "law", "target's law"),
        (Hoarder, "purity", "changes its own field made"),
        (Boastful, "rounds", "1 tokens accepted of 0 drafted"),
        (Stale, "rounds", "not open for it"),
        (Unchecked, "options", "threshold=nan is taken"),
        (Timid, "always", "saves no forward: 1.00"),
        (Crash, "ends", "raised ZeroDivisionError: no"),
        (EarlyEngine, "ends", "stopped before the text ended"),
    ],
)
def test_a_planted_fault_fails_the_check_that_is_about_it(fault: type, check: str, line: str) -> None:
    STALE.clear()
    one = Subject("fault", {"_target_": f"{__name__}.{fault.__qualname__}"})
    (found,) = [one.finding for one in examine(one, [check])]
    assert found.verdict is Verdict.FAILED and line in found.says and "\n" not in found.says


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_a_certificate_of_what_was_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["decoder=speculative", "decoder.gamma=2", "seed=3", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "certificate.json").read_text())
    assert content["verdict"] == "passed" and content["options"] == {"gamma": 2} and content["seed"] == 3
    assert [one["name"] for one in content["checks"]] == list(CHECKS)
    law = content["checks"][0]
    assert law["figures"]["exact_laws"] == 3 and law["figures"]["largest_total_variation"] < 1e-9
    page = (tmp_path / "certificate.md").read_text()
    assert page.startswith("# Conformance of speculative: passed") and str(tmp_path) not in page
    assert "speculative: passed" in capsys.readouterr().out


def test_a_failed_check_ends_in_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.conformance.kit.CHECKS", {"rounds": CHECKS["rounds"]})
    target = f"decoder._target_={__name__}.Boastful"
    with pytest.raises(SystemExit) as ended:
        main(["decoder=autoregressive", target, "--out", str(tmp_path)])
    assert ended.value.code == 1 and "1 tokens accepted" in (tmp_path / "certificate.md").read_text()


@pytest.mark.parametrize(
    ("given", "line"),
    [([], "decoder=mtad"), (["decoder=none"], "composed"), (["decoder=mtad", "decoder.gamma=0"], "gamma must be")],
)
def test_a_users_mistake_is_one_line(given: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=line) as ended:
        main([*given, "--out", str(tmp_path)])
    assert "\n" not in str(ended.value) and not list(tmp_path.iterdir())


def test_mtad_passes() -> None:
    check_all("mtad")

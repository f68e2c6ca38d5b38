"""The conformance kit: our decoders pass it, and each planted fault fails the check that is about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.conformance.__main__ import main
from experiments.conformance.finding import Subject, Verdict
from experiments.conformance.kit import CHECKS, examine
from tests.conformance_faults import (
    STALE,
    Boastful,
    Crash,
    EarlyEngine,
    Forgetful,
    GlobalLuck,
    Hoarder,
    Keen,
    LossyFly,
    LuckTwice,
    Meddler,
    NoEnd,
    NoResidual,
    Privileged,
    Stale,
    Timid,
    TooMuch,
    Unchecked,
)
from tests.helpers import ALL, CONF, ENGINES, LOSSLESS

QUICK = ("ends", "luck", "batch", "rounds", "never", "always", "purity", "options")  # checks of less than a second


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
@pytest.mark.parametrize("name", ALL)
def test_every_decoder_of_ours_passes_what_it_owes(name: str) -> None:
    check_all(name)


# -- planted faults --------------------------------------------------------------------------------------------------


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
        pytest.param(LossyFly, "law", "do not have the target's law", marks=pytest.mark.platform),
        (Keen, "greedy", "autoregressive decoding's"),
        (Keen, "never", "impossible under the target"),
        (Privileged, "batch", "in 2 rows"),
        (Meddler, "cached", "from the cache"),
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
    one = Subject("fault", {"_target_": f"{fault.__module__}.{fault.__qualname__}"})
    (found,) = [one.finding for one in examine(one, [check])]
    assert found.verdict is Verdict.FAILED and line in found.says and "\n" not in found.says


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.platform
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
    target = f"decoder._target_={Boastful.__module__}.Boastful"
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


@pytest.mark.parametrize("seed", ["1.5", "true", str(10**18)])
def test_a_seed_that_is_none_is_one_line(seed: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="seed must be a whole number"):
        main(["decoder=mtad", f"seed={seed}", "--out", str(tmp_path)])


@pytest.mark.platform
def test_another_seed_writes_other_texts() -> None:
    least = set()
    for seed in (0, 1):
        (law,) = [one.finding for one in examine(replace(subject("autoregressive"), seed=seed), ["law"])]
        least.add(law.figures["least_p"])
    assert law.verdict is Verdict.PASSED and len(least) == 2


@pytest.mark.parametrize("name", ["mtad", "speculative"])
def test_what_needs_few_texts_is_passed_by_a_lossy_and_a_lossless_decoder(name: str) -> None:
    found = {one.name: one.finding for one in examine(subject(name), QUICK)}
    assert {name: one.says for name, one in found.items() if one.verdict is Verdict.FAILED} == {}
    assert {name for name, one in found.items() if one.verdict is Verdict.PASSED} >= {"luck", "batch", "purity"}

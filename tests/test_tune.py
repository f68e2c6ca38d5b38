"""Tuning: what is tried, what is chosen, on which prompts, and what is measured after it."""

from __future__ import annotations

import json
import random
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from baselines.autoregressive import Autoregressive
from baselines.speculative import Speculative
from experiments import code_version, process, runner
from experiments.bench import Bench
from experiments.isolation import findings
from experiments.journal import Journal, Row
from experiments.plan import prepare, split
from experiments.settings import Settings
from experiments.tune import BEST, SAME, choose, plan_trials, trial_variants, tuned_variants
from mtad.errors import UserError
from mtad.mtad import Mtad
from tests.toy import toy_settings
from tests.tuning import MTAD, SPECULATIVE, TUNE, chosen, graded, made, tune, variant

PAIR = "reference=[autoregressive,speculative]"


def test_the_fastest_trial_is_chosen_of_those_that_lose_little() -> None:
    settings = tune({"tau": [0.5, 0.4, 0.3, 0.2]}, loss=0.1)
    base = made("autoregressive#1", 4)
    rows = {
        "slow": made("mtad#1", 3),
        "worse": made("mtad#2", 1, logp=-1.2),  # perplexity 22 % worse
        "wrong": made("mtad#3", 1, score=0.3),
        "right": made("mtad#4", 2, logp=-1.09, score=0.45),
    }
    choice = chosen(settings, MTAD, base=base, **rows)
    assert choice.best.variant.label == "mtad#4" and choice.best.admissible
    assert [trial.admissible for trial in choice.trials] == [True, False, False, True]
    assert [trial.tokens_per_second for trial in choice.trials] == pytest.approx([10 / 3, 10, 10, 5])
    stricter = chosen(tune(settings.knobs, loss=0.01), MTAD, base=base, **rows)
    assert stricter.best.variant.label == "mtad#1"


def test_where_no_trial_is_admissible_the_one_that_loses_least_is_taken_and_marked() -> None:
    settings = tune({"tau": [0.5, 0.4, 0.3]})
    choice = chosen(
        settings,
        MTAD,
        base=made("autoregressive#1", 4),
        unread=made("mtad#1", 1, logp=None),  # type: ignore[arg-type]
        least=made("mtad#2", 3, logp=-1.2),
        most=made("mtad#3", 2, logp=-1.3),
    )
    assert choice.best.variant.label == "mtad#2" and not choice.best.admissible
    assert "NONE is admissible" in str(choice)


def test_a_loss_counts_only_where_the_prompts_show_it() -> None:
    settings = tune({"tau": [0.5, 0.4, 0.3, 0.2]}, loss=0.05)
    scores, logps = [1.0] * 8 + [0.0] * 8, [-1 - 0.1 * (i % 3) for i in range(16)]
    noisy = [logp - (1.6 if i == 3 else 0) for i, logp in enumerate(logps)]  # 10 % of perplexity, by one prompt
    choice = chosen(
        settings,
        MTAD,
        base=graded("autoregressive#1", scores, logps),
        unlucky=graded("mtad#1", [0.0, *scores[1:]], noisy),
        wrong=graded("mtad#2", [0.0] * 7 + [1.0] + [0.0] * 8, logps),
        worse=graded("mtad#3", scores, [logp - 0.08 - 0.01 * (i % 2) for i, logp in enumerate(logps)]),
        same=graded("mtad#4", scores, [logp - 0.08 for logp in logps]),  # no interval: every prompt loses alike
    )
    assert [trial.admissible for trial in choice.trials] == [True, False, False, False]
    unlucky, wrong, worse, same = choice.trials
    assert unlucky.score_difference["value"] == pytest.approx(-1 / 16) and unlucky.score_difference["high"] > -0.05
    assert unlucky.perplexity_ratio["value"] == pytest.approx(exp(0.1)) and unlucky.loss == pytest.approx(exp(0.1) - 1)
    assert wrong.score_difference["high"] < -0.05 and worse.perplexity_ratio["low"] > 1.05
    assert same.perplexity_ratio["low"] is None and same.perplexity_ratio["value"] == pytest.approx(exp(0.08))


def test_variants_of_one_law_are_seldom_ruled_out() -> None:
    settings, draw = tune({"tau": [0.5, 0.4]}), random.Random(0)
    ruled_out = 0
    for _ in range(100):
        rows = {
            label: graded(label, [float(draw.random() < 0.5) for _ in range(16)], [-draw.random() for _ in range(16)])
            for label in ("autoregressive#1", "mtad#1", "mtad#2")
        }
        ruled_out += not chosen(settings, MTAD, **rows).trials[1].admissible
    assert ruled_out <= 6, "by score 2.5 % or fewer, and as many by perplexity"


def test_of_a_lossless_decoder_every_trial_is_admissible_and_without_scores_perplexity_decides() -> None:
    settings = tune({"gamma": [4, 8]})
    rows = {"first": made("speculative#1", 2), "second": made("speculative#2", 1, logp=-3, score=0)}
    base = made("autoregressive#1", 4)
    assert chosen(settings, SPECULATIVE, base=base, **rows).best.variant.label == "speculative#2"
    unscored = [{**row, "score": None} for row in base]
    lossy = tune({"tau": [0.5, 0.4]})
    choice = chosen(lossy, MTAD, base=unscored, first=made("mtad#1", 2), second=made("mtad#2", 1, score=None))
    assert choice.best.variant.label == "mtad#2" and choice.best.score_difference["value"] is None


def test_a_trial_is_held_against_autoregressive_decoding_under_its_own_sampling() -> None:
    settings = tune({"tau": [0.5, 0.4]})
    cold = variant(Mtad(), "mtad", "cold", temperature=0.5)
    searches = plan_trials(settings, [MTAD, cold], 0)
    variants = trial_variants(searches)
    assert [found.label for found in variants[:2]] == ["autoregressive#1", "autoregressive#2"]
    assert [found.sampling.temperature for found in variants[:2]] == [1.0, 0.5]
    rows = [*made("autoregressive#1", 1, logp=-1), *made("autoregressive#2", 1, logp=-0.5)]
    for found in variants[2:]:
        rows += made(found.label, 1, logp=-0.8)
    warm, colder = choose(searches, rows, 0.05)
    assert warm.best.admissible and not colder.best.admissible


def test_what_is_the_same_in_both_tables_is_measured_once_and_belongs_to_none() -> None:
    settings = tune({"tau": [0.5, 0.4], "speculative": {"gamma": [3, 4]}}, gamma=3)
    variants = [MTAD, variant(Autoregressive(), "autoregressive"), SPECULATIVE]
    searches = plan_trials(settings, variants, 0)
    rows = made("autoregressive#1", 1) + made("mtad#1", 2) + made("mtad#2", 1)
    rows += made("speculative#1", 2) + made("speculative#2", 1)  # gamma 3, as in the table "same gamma"
    measured = tuned_variants(settings, variants, choose(searches, rows, 0.05))
    shown = [(found.label, found.group, found.options.get("gamma"), found.options.get("tau")) for found in measured]
    assert shown == [
        ("mtad", SAME, 3, 0.5),
        ("mtad-best", BEST, 4, 0.4),
        ("autoregressive", "", None, None),
        ("speculative", "", 3, None),
    ]


@dataclass(frozen=True)
class Study:
    """A tuned run that was interrupted while tuning, and then finished.

    Attributes:
        begun: the lines of the tuning's rows when it was interrupted.
        lines: these at the end.
        run, rows: folder and rows of the run itself.
    """

    folder: Path
    run: Path
    settings: Callable[[], Settings]
    begun: list[str]
    lines: list[str]
    rows: list[Row]
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def study(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("results")
    append, warm_up, written = Journal.append, Bench.warm_up, 0
    loaded: list[weakref.ref[Any]] = []

    def settings() -> Settings:
        judged = (f"judge.path={saved_pair / 'target'}", "noninferiority_margin=0.1")
        return toy_settings(saved_pair, folder, *TUNE, PAIR, "limit=null", "repeats=2", "decoder.tau=0.7", *judged)

    def interrupted(self: Journal, row: Mapping[str, Any]) -> None:
        nonlocal written
        written += 1
        if written == 9:  # in the middle of the second of two tuning prompts, of seven variants each
            raise KeyboardInterrupt
        append(self, row)

    def watched(self: Bench) -> None:
        assert not any(model() not in (None, self.pair.target.lm) for model in loaded), "two pairs are in memory"
        loaded.append(weakref.ref(self.pair.target.lm))
        warm_up(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.run(settings())
        (tuning,) = folder.glob("*/*/samples.jsonl")
        begun = tuning.read_text().splitlines()
        patch.setattr(Bench, "warm_up", watched)
        runner.run(settings())
    assert len(loaded) == 2 and loaded[0]() is loaded[1](), "the run takes the pair of the tuning"
    (run,) = (path for path in folder.glob("*/*/samples.jsonl") if path != tuning)
    rows = [json.loads(line) for line in run.read_text().splitlines()]
    summary = json.loads((run.parent / "summary.json").read_text())
    return Study(folder, run.parent, settings, begun, tuning.read_text().splitlines(), rows, summary)


def test_a_tuned_run_measures_on_prompts_that_were_not_tuned_on(study: Study) -> None:
    tested, tuned_on = ({row["prompt_id"] for row in rows} for rows in (study.rows, map(json.loads, study.lines)))
    assert tuned_on == {"toy/4", "toy/5"} and tested == {f"toy/{i}" for i in range(4)}
    assert study.summary["tuning"]["prompts"] == ["toy/4", "toy/5"]
    assert len(study.lines) == 2 * (1 + 3 + 3), "autoregressive decoding and each trial, once for every prompt"


def test_the_record_says_what_was_tried_and_taken(study: Study) -> None:
    record, decoders = study.summary["tuning"], study.summary["decoders"]
    assert set(record["decoders"]) == {"mtad", "speculative"} and set(record["not_tuned"]) == {"autoregressive"}
    assert (study.folder / record["run"] / "samples.jsonl").exists()
    mtad = record["decoders"]["mtad"]
    assert mtad["trials"][0]["options"]["tau"] == 0.7, "the first trial is what was asked for"
    assert len(mtad["trials"]) == 3 and mtad["chosen"] in [trial["label"] for trial in mtad["trials"]]
    options = {row["variant"]: row["options"] for row in study.rows}
    for label, found in record["decoders"].items():
        assert found["same_gamma"] == label and options[label]["gamma"] == 4
        assert found["options"].items() <= options[found["best_each"]].items()
        groups = [decoders[found[table]]["group"] for table in ("same_gamma", "best_each")]
        assert groups == (["", ""] if found["best_each"] == label else [SAME, BEST])
    assert decoders["autoregressive"]["group"] == ""


def test_the_record_gives_values_with_their_intervals_and_says_how_the_times_were_measured(study: Study) -> None:
    record, rows = study.summary["tuning"], [json.loads(line) for line in study.lines]
    assert record["code_versions"] == sorted({row["code"] for row in rows}) and record["machines"] == 1
    assert record["isolation"] == findings([row["isolation"] for row in rows])
    for found in record["decoders"].values():
        for trial in found["trials"]:
            assert trial["perplexity_ratio"] > 0 and trial["perplexity_ratio_interval"] is None
            assert "fewer than 5 prompts" in trial["score_difference_reason"]


def test_a_tuning_is_without_judge_energy_margin_and_repeats_and_its_files_say_so(study: Study) -> None:
    tuning = study.folder / study.summary["tuning"]["run"]
    config = OmegaConf.load(tuning / "config.yaml")
    said = {"repeats": 1, "energy": False, "judge": None, "noninferiority_margin": None, "skip": 4, "limit": 2}
    assert {key: config[key] for key in said} == said
    for one in json.loads((tuning / "environment.json").read_text())["processes"]:
        assert one["noninferiority_margin"] is None and one["meter_reason"] == "left out by energy=false"
    run = OmegaConf.load(study.run / "config.yaml")
    assert (run["repeats"], run["limit"], run["noninferiority_margin"]) == (2, 4, 0.1) and run["judge"]["path"]


def test_rows_of_other_code_choose_nothing_unless_asked_for(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "Bench", None)  # all is measured
    monkeypatch.setattr(code_version, "code_hash", lambda: "newer")
    with pytest.raises(UserError, match=r"the code has changed since rows of .*-tuning/.* were measured"):
        runner.run(study.settings())
    runner.run(replace(study.settings(), mixed=True))


def test_a_plain_run_keeps_the_record_of_the_tuned_one_that_it_is_the_same_as(saved_pair: Path, tmp_path: Path) -> None:
    plain = toy_settings(saved_pair, tmp_path, PAIR, "limit=1", "max_new_tokens=3")

    def tuning_after(settings: Settings) -> Any:
        runner.run(settings)
        (summary,) = tmp_path.glob("*/*/summary.json")
        return json.loads(summary.read_text())["tuning"]

    assert tuning_after(plain) is None
    assert tuning_after(replace(plain, tuning={"run": "tuned"})) == {"run": "tuned"}
    assert tuning_after(plain) == {"run": "tuned"}
    assert tuning_after(replace(plain, fresh=True)) is None


def test_an_interrupted_tuning_goes_on(study: Study) -> None:
    assert len(study.begun) == 8
    assert study.lines[:7] == study.begun[:7], "a prompt that was complete is not measured again"
    assert len({json.loads(line)["process_id"] for line in study.lines}) == 2


def test_a_complete_tuning_is_not_repeated(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "Bench", None)  # weights must not be loaded again
    runner.run(study.settings())
    out, err = capsys.readouterr()
    assert "complete already" in err and "tuned mtad: " in err and "tuned speculative: gamma=" in err
    assert "same gamma" in out or "mtad-best" not in study.summary["decoders"]


def test_prompts_are_apart_by_their_text_too(saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = toy_settings(saved_pair, tmp_path, *TUNE, PAIR, "limit=2")
    prompts = settings.task.prompts()
    doubled = [*prompts[:5], replace(prompts[5], turns=prompts[0].turns)]
    monkeypatch.setattr(type(settings.task), "prompts", lambda _: doubled)
    with pytest.raises(UserError, match="prompt toy/5, for tuning, has the id or text of a test prompt"):
        runner.run(settings)


def test_the_prompts_of_a_run_without_tuning_are_as_ever(saved_pair: Path, tmp_path: Path) -> None:
    plain = toy_settings(saved_pair, tmp_path, "limit=null")
    assert len(prepare(plain).prompts) == 6 and plain.tune is None
    test, apart = (prepare(part) for part in split(plain, 2))
    assert ([p.id for p in test.prompts], [p.id for p in apart.prompts]) == (
        [f"toy/{i}" for i in range(4)],
        ["toy/4", "toy/5"],
    )


def test_a_decoder_that_cannot_run_here_is_left_out_of_all_and_refused_by_name(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Speculative, "missing", staticmethod(lambda: "no such device"), raising=False)
    everything = toy_settings(saved_pair, tmp_path, "reference=all")
    labels = [variant.label for variant in everything.variants]
    assert "speculative" not in labels and {"mtad", "block"} <= set(labels)
    assert everything.left_out["speculative"] == "no such device"
    few = replace(everything, variants=everything.variants[:1], limit=1, max_new_tokens=2)
    runner.run(few)
    assert "speculative is left out: no such device\n" in capsys.readouterr().err
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["left_out"]["speculative"] == "no such device"
    for override in ("reference=[speculative]", "decoder=speculative"):
        with pytest.raises(UserError, match=r"^decoder speculative cannot run here: no such device$"):
            runner.run(toy_settings(saved_pair, tmp_path, override))

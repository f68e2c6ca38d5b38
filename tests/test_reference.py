"""What the committed reference results are claimed to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.tasks.spec_bench import GROUPS
from tests.helpers import ALL

REFERENCE = Path(__file__).parents[1] / "results" / "reference"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REFERENCE / f"tiny-{name}.json").read_text(encoding="utf-8"))
    return found


def test_the_cost_model_predicted_the_speed_ups_of_the_default_run_within_15_percent() -> None:
    decoders = read("cost")["decoders"]
    assert decoders.keys() == {"mtad", "autoregressive", "speculative"}
    for label in ("mtad", "speculative"):
        found = decoders[label]
        assert found["predicted_speedup"] == pytest.approx(found["measured_speedup"], rel=0.15)
        assert found["error"] == pytest.approx(found["predicted_speedup"] / found["measured_speedup"] - 1)


@pytest.mark.parametrize("name", ["sql", "code", "arithmetic", "frontier", "tuned", "spec_bench"])
def test_a_table_and_its_figures_are_of_one_run_and_the_table_says_what_disturbed_it(name: str) -> None:
    summary, table = read(name), (REFERENCE / f"tiny-{name}.txt").read_text(encoding="utf-8")
    assert summary["run_id"] in table and (summary["machines"], len(summary["code_versions"])) == (1, 1)
    words = " ".join(table.split())
    assert all(" ".join(finding.split()) in words for finding in summary["isolation"])
    for label, figures in summary["decoders"].items():
        if figures["group"] != "frontier":
            shown = [label, f"{figures['tokens_per_second']:.1f}"]
            assert any(line.split()[:2] == shown for line in table.splitlines())


@pytest.mark.parametrize("task", ["sql", "code", "arithmetic"])
def test_all_decoders_stand_in_one_table_in_order_of_tokens_per_target_forward_and_in_one_picture(task: str) -> None:
    summary, table = read(task), (REFERENCE / f"tiny-{task}.txt").read_text(encoding="utf-8")
    assert set(ALL) - {"vllm"} <= summary["decoders"].keys()
    names = [line.split()[0] for line in table.split("Against")[0].splitlines() if line.strip()]
    order = [name for name in names if name in summary["decoders"]]
    rates = [summary["decoders"][name]["tokens_per_target_forward"] for name in order]
    assert len(order) == len(summary["decoders"]) and rates == sorted(rates, reverse=True)
    assert (REFERENCE / f"tiny-{task}-quality-speed.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_page_claims_of_the_frontier_is_in_its_figures() -> None:
    for found in read("frontier")["frontier"]["distances"]:
        if (found["diversity"], found["metric"]) == ("self_bleu", "perplexity_ratio") and "mtad" in found["decoder"]:
            assert found["value"] > 1 and found["p_holm"] > 0.05


def test_spec_bench_has_ten_prompts_of_each_of_its_six_groups_and_its_licence() -> None:
    summary = read("spec_bench")
    assert {name: group["mtad"]["prompts"] for name, group in summary["groups"].items()} == dict.fromkeys(GROUPS, 10)
    assert summary["task_origin"]["rows"] == 458 and "CNN/DailyMail" in summary["task_origin"]["licence"]
    pair = ("autoregressive", "speedup")
    slow = {c["decoder"]: c["high"] for c in summary["comparisons"] if (c["reference"], c["metric"]) == pair}
    assert slow["speculative"] < 1 and slow["block"] < 1, "as the page says"


DEBUG = REFERENCE / "debug"
EXPERIMENTS = sorted(file.stem for file in (REFERENCE.parents[1] / "conf" / "experiment").glob("*.yaml"))


def test_every_experiment_has_a_debug_size_run_by_one_version_of_the_code() -> None:
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(DEBUG.glob("*.json"))]
    assert sorted(run["experiment"] for run in runs) == EXPERIMENTS
    assert len({version for run in runs for version in run["code_versions"]}) == 1
    assert {run["model"] for run in runs} == {"tiny"} and all(run["parameters"]["target"] < 2e7 for run in runs)


def test_the_gaps_that_the_debug_page_quotes_are_measured_proven_and_below_their_bounds() -> None:
    page = (DEBUG / "README.md").read_text(encoding="utf-8")
    summary = json.loads((DEBUG / "tiny-sql-approximation.json").read_text(encoding="utf-8"))
    for label, figures in summary["decoders"].items():
        accepted = (figures["approximation"] or {}).get("accepted")
        if accepted:
            assert accepted["proven_share"] == 1 and accepted["gap"] >= 0, label
            assert accepted["bound"] is None or accepted["gap"] < accepted["bound"], label
    for label in ("mtad", "mtad tau=0.1"):
        known = summary["decoders"][label]["approximation"]["accepted"]
        assert f"{known['gap']:.3f} [{known['gap_low']:.3f}, {known['gap_high']:.3f}]" in page
        assert f"{known['bound']:.3f}" in page


def test_nothing_on_the_debug_page_reads_as_a_reproduction() -> None:
    html, claims = ((DEBUG / name).read_text(encoding="utf-8") for name in ("report.html", "claims.md"))
    assert "Everything on this page was measured on stand-ins" in html
    assert not [line for line in claims.splitlines() if line.startswith("|") and "| reproduced" in line]

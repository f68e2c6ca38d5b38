"""The benchmark command: it measures an ordinary run, keeps what is there, and says in one line what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.benchmark.estimates import unknown
from experiments.benchmark.options import Aim, bench_options
from experiments.benchmark.page import page
from experiments.benchmark.record import Record
from experiments.journal import replace
from mtad.errors import UserError
from scripts import bench
from tests.toy import ROOT

pytestmark = pytest.mark.runs


def toy(pair: Path, folder: Path, *more: str) -> list[str]:
    """The command on a pair on the disk and the toy task, in `folder`."""
    models = [f"model.{role}.path={pair / role}" for role in ("target", "draft")]
    toys = [
        "task=toy",
        "task.size=10",
        f"hydra.searchpath=[file://{ROOT}/tests/conf]",
        f"results_dir={folder / 'runs'}",
    ]
    return ["--quick", "--out", str(folder), *toys, *models, *more]


@pytest.fixture(scope="module")
def made(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small benchmark."""
    folder = tmp_path_factory.mktemp("bench")
    bench.main(toy(saved_pair, folder))
    return folder


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bench-cpu.json").read_text(encoding="utf-8"))
    return found


def test_it_compares_what_it_is_there_for_and_judges_every_aim(made: Path) -> None:
    (sections,) = read(made)["pairs"].values()
    ratios = {one["name"]: one for one in sections["texts"]["ratios"]}
    named = {"autoregressive / hf_generate", "autoregressive / hf_static", "speculative / hf_assisted"}
    assert named | {"best joint / best speculative", "mjgd / autoregressive"} <= ratios.keys()
    assert all(one["speed"]["value"] > 0 and one["speed"]["n"] == 5 for one in ratios.values())
    (verdicts,) = read(made)["verdicts"].values()
    assert len(verdicts) == 7
    assert all(one["measured"]["value"] is not None and one["verdict"] for one in verdicts)


def test_its_ratios_are_those_of_the_ordinary_run_that_it_names(made: Path) -> None:
    (sections,) = read(made)["pairs"].values()
    summary = json.loads((made / "runs" / sections["texts"]["run"] / "summary.json").read_text(encoding="utf-8"))
    same = {(one["decoder"], one["reference"]): one for one in summary["comparisons"] if one["metric"] == "speedup"}
    found = next(one for one in sections["texts"]["ratios"] if one["name"] == "speculative / autoregressive")
    expected = same["speculative", "autoregressive"]
    assert [found["speed"][key] for key in ("value", "low", "high")] == [
        pytest.approx(expected[key]) for key in ("value", "low", "high")
    ]


def test_time_outside_forwards_is_what_the_rows_say(made: Path) -> None:
    (sections,) = read(made)["pairs"].values()
    journal = made / "runs" / sections["texts"]["run"] / "samples.jsonl"
    rows = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    for variant in sections["texts"]["variants"]:
        own = [row for row in rows if row["variant"] == variant["label"]]
        share = variant["share_outside_forwards"]
        if own[0]["seconds"]["decide"] is None:
            assert share["value"] is None and "not timed" in share["reason"]
            continue
        outside = sum(row["seconds"]["decide"] + row["seconds"]["commit"] for row in own)
        assert share["value"] == pytest.approx(outside / sum(row["seconds"]["decode"] for row in own))
        micro = variant["microseconds_outside_forwards_per_round"]["value"]
        assert micro == pytest.approx(outside * 1e6 / sum(len(row["rounds"]) for row in own))


def test_reads_are_timed_of_every_engine_model_and_size(made: Path) -> None:
    (sections,) = read(made)["pairs"].values()
    found = {(one["engine"], one["model"]): one["curve"] for one in sections["reads"]["reads"]}
    assert set(found) == {(engine, role) for engine in ("eager", "recorded") for role in ("target", "draft")}
    assert all([point["nodes"] for point in curve] == [1, 4, 32] for curve in found.values())
    assert all(curve[0]["ratio_to_1_nodes"]["value"] == 1 for curve in found.values())
    assert sections["reads"]["engines"]["eager"]["target"]["runs"] == "eager"


def test_the_batch_curve_is_of_whole_windows_and_begins_at_one(made: Path) -> None:
    (sections,) = read(made)["pairs"].values()
    found = {(one["variant"], one["batch_size"]): one for one in sections["batches"]["sizes"]}
    decoders = ("autoregressive", "mtad")
    assert set(found) == {(decoder, size) for decoder in decoders for size in (1, 2)}
    assert all(one["tokens_per_second"]["n"] == 5 and one["texts_unexplained"] == 0 for one in found.values())
    assert all(found[decoder, 1]["ratio_to_one"]["value"] == 1 for decoder in decoders)


def test_the_page_says_what_the_json_says(made: Path) -> None:
    record, page = read(made), (made / "bench-cpu.md").read_text(encoding="utf-8")
    (sections,), (verdicts,) = record["pairs"].values(), record["verdicts"].values()
    for one in sections["texts"]["ratios"]:
        speed = one["speed"]
        line = next(line for line in page.splitlines() if line.startswith(f"| {one['name']} | {speed['value']:.2f}"))
        assert f"[{speed['low']:.2f}, {speed['high']:.2f}] | 5 |" in line
    for one in verdicts:
        line = next(line for line in page.splitlines() if line.startswith(f"| {one['figure']}"))
        assert one["aim"] in line and f"**{one['verdict']}**" in line
    assert record["hardware"]["cpu"] in page and record["command"] in page
    assert str(made) not in page + json.dumps(record)


def test_the_page_says_what_makes_its_figures_worth_less(made: Path) -> None:
    record = read(made)
    assert "Made with --quick" in page(record)
    record["settings"]["quick"] = False
    (sections,) = record["pairs"].values()
    for found in sections.values():
        found["isolation"] = []
    assert "Made with --quick" not in page(record) and "Others used the machine" not in page(record)
    sections["reads"]["isolation"] = ["others were there"]
    assert "**Others used the machine meanwhile** (reads)" in page(record)


def test_the_page_of_random_weights_says_so_once(made: Path) -> None:
    record = read(made)
    (sections,) = record["pairs"].values()
    texts, why = sections["texts"], "the weights are random"
    texts["untrained"] = why
    for one in texts["ratios"]:
        one["perplexity_ratio"] = one["score_difference"] = unknown(why)
        if "best" in one["name"]:
            one["speed"] = unknown(why)
    speed = page(record).split("### Speed")[1]
    assert speed.count(why) == 1 and "| best mtad / autoregressive" not in speed and "| mtad / autoregressive" in speed


def test_what_is_not_there_is_named_with_its_column(made: Path) -> None:
    text = page(read(made))
    assert "- ms per target forward of hf_static: its forwards are not timed one by one" in text
    drafting = "- ms per draft forward of autoregressive, hf_generate, hf_static: the draft model is not used"
    assert drafting in text


def test_the_same_command_again_measures_nothing_and_other_settings_begin_anew(
    made: Path, saved_pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(made)["pairs"]
    bench.main(toy(saved_pair, made))
    assert read(made)["pairs"] == before
    assert capsys.readouterr().err.count("are there already") == 3
    bench.main(toy(saved_pair, made, "--sections", "reads", "bench.repeats=1"))
    (sections,) = read(made)["pairs"].values()
    assert "is of other settings: it is made anew" in capsys.readouterr().err
    assert sections.keys() == {"reads"} and sections["reads"]["repeats"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sections", "texts,speed"], "there is no section 'speed'"),
        (["--device", "toaster"], "toaster"),
        (["--model", "nothing"], "cannot be composed"),
        (["--limit", "0"], "limit must be >= 1"),
        (["bench.nodes=[4,1]"], "bench.nodes must be ascending"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(["--out", str(tmp_path), f"results_dir={tmp_path}", *arguments])
    message = str(caught.value.code)
    assert message.startswith("error: ") and says in message and "\n" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("nodes", 3, "must be a list"),
        ("batches", [0], "must be a number >= 1"),
        ("engines", ["fast"], "must be one of auto, recorded, eager"),
        ("engines", [], "names no engine"),
        ("ratios", [["mtad"]], "a list of two decoders"),
        ("limit", 3, "by type of device"),
        ("repeats", 0, "bench.repeats must be"),
        ("speed", 1, "no option 'speed'"),
    ],
)
def test_a_wrong_option_of_the_benchmark_is_named(key: str, value: object, says: str) -> None:
    usual: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "bench.yaml"))
    bench_options(usual)
    with pytest.raises(UserError, match=re.escape(says)):
        bench_options({"bench": {**usual["bench"], key: value}})


def test_an_aim_has_one_side() -> None:
    with pytest.raises(UserError, match="one of at_least and at_most"):
        Aim("speed", at_least=1, at_most=2)


def test_a_file_that_is_no_record_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bench-cpu.json").write_text("{}x", encoding="utf-8")
    with pytest.raises(UserError, match=r"bench-cpu\.json is no record of the benchmark"):
        Record(tmp_path, "cpu", {"settings": {}, "hardware": {}})
    assert (tmp_path / "bench-cpu.json").read_text(encoding="utf-8") == "{}x"


def test_a_record_of_another_machine_does_not_go_on(tmp_path: Path) -> None:
    for machine, kept in (("a", False), ("a", True), ("b", False)):
        record = Record(tmp_path, "cpu", {"settings": {"pairs": []}, "hardware": {"machine": machine}})
        assert record.has("tiny", "reads") == kept
        replace(record.json, json.dumps({**record.content, "pairs": {"tiny": {"reads": {}}}}))

"""Mirrors of runs: what wandb's own offline mode has stored, with nothing private in it, and that it harms no run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.mirrored import mirrored
from experiments.optional import look_for
from experiments.report.results import read_results
from experiments.runner import run
from experiments.settings import Settings
from experiments.wandb_tracker import WandbTracker
from mtad.errors import UserError
from tests.test_tracker_child import HANGS
from tests.toy import ROOT, WORDS, settings_of, toy_settings

pytest.importorskip("wandb")

USER = "mallory7"
ENTITY = "a-private-team"
KEY = "0123456789abcdef" * 2 + "01234567"  # made up
NOWHERE = "http://127.0.0.1:9"  # nobody answers there
OFFLINE = ("tracker=wandb", "tracker.mode=offline", f"tracker.entity={ENTITY}", "tracker.tags=[mine]")


@dataclass(frozen=True)
class Stored:
    """What wandb has of a run: its own reader's view, and all bytes."""

    seen: dict[str, Any]
    files: dict[str, bytes]

    def table(self) -> dict[str, Any]:
        (table,) = (content for name, content in self.files.items() if name.endswith(".table.json"))
        found: dict[str, Any] = json.loads(table)
        return found


def folders(results: Path) -> list[Path]:
    return sorted((results / "wandb").glob("*run-*"))


def stored(results: Path) -> Stored:
    (folder,) = folders(results)
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    summary, records = (
        subprocess.run([*command, *more, str(folder)], check=True, capture_output=True, timeout=60).stdout
        for more in (["--summary"], [])
    )
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return Stored(json.loads(summary), {**files, "records": records})


def quietly(settings: Settings) -> Path:
    """The folder of the run, once it has been measured and mirrored."""
    run(settings)
    (folder,) = (file.parent for file in settings.results_dir.rglob("summary.json"))
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_bytes())
    return summary


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine") / "home" / USER


@pytest.fixture(autouse=True)
def _at_home(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up user with a key; nobody's account is asked."""
    for name, value in {"HOME": machine, "USER": USER, "LOGNAME": USER, "HOSTNAME": f"{USER}-laptop"}.items():
        monkeypatch.setenv(name, str(value))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)


@pytest.fixture(scope="module")
def measured(saved_pair: Path, machine: Path) -> tuple[Path, Stored]:
    """A run of the toy task, mirrored offline with a key at hand: its folder, and what wandb has of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("HOME", str(machine))
        patch.setenv("USER", USER)
        folder = quietly(toy_settings(saved_pair, machine / "results", "limit=2", *OFFLINE))
    return folder, stored(machine / "results")


def test_wandb_has_the_figures_of_the_summary_under_readable_names(measured: tuple[Path, Stored]) -> None:
    folder, wandb = measured
    summary, seen = summary_of(folder), wandb.seen["summary"]
    for label, figures in summary["decoders"].items():
        assert seen[f"{label} †/perplexity"] == pytest.approx(figures["perplexity"])
        assert seen[f"{label} †/grades/even"] == pytest.approx(figures["grades"]["even"])
        assert f"{label} †/energy/joules_per_token" not in seen
        assert seen[f"{label} †/energy/joules_per_token_reason"]
    (speedup,) = (
        found
        for found in summary["comparisons"]
        if (found["decoder"], found["reference"], found["metric"]) == ("mtad", "autoregressive", "speedup")
    )
    assert seen["mtad † against autoregressive †/speedup"] == pytest.approx(speedup["value"])


def test_a_stand_in_is_called_one(measured: tuple[Path, Stored]) -> None:
    _, wandb = measured
    assert wandb.seen["name"].endswith("†") and "stand-in" in wandb.seen["tags"] and "mine" in wandb.seen["tags"]
    assert wandb.seen["notes"].startswith("† stand-in: a target of")


def test_wandb_has_the_published_configuration_and_nothing_of_where_it_goes(measured: tuple[Path, Stored]) -> None:
    folder, wandb = measured
    config = wandb.seen["config"]
    assert (config["limit"], config["decoder"]["gamma"], config["seed"]) == (2, 4, 0)
    assert config["run_id"] == folder.name and config["code_versions"] == summary_of(folder)["code_versions"]
    assert not {"tracker", "results_dir", "name"} & config.keys()


def test_the_table_shows_what_every_variant_wrote(measured: tuple[Path, Stored]) -> None:
    folder, wandb = measured
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    table = wandb.table()
    assert table["columns"] == ["prompt_id", "turn", "prompt", "mtad †", "autoregressive †", "speculative †"]
    assert [line[:3] for line in table["data"]] == [[f"toy/{i}", 0, " ".join(WORDS[i : i + 5])] for i in range(2)]
    for prompt, _, _, *texts in table["data"]:
        for label, text in zip(("mtad", "autoregressive", "speculative"), texts, strict=True):
            assert [text] == [row["text"] for row in rows if (row["prompt_id"], row["variant"]) == (prompt, label)]


def test_of_several_texts_the_table_shows_the_first(measured: tuple[Path, Stored], tmp_path: Path) -> None:
    folder = shutil.copytree(measured[0], tmp_path / "copy" / "run")
    with (folder / "samples.jsonl").open("r+", encoding="utf-8") as samples:
        again = [{**json.loads(line), "repeat": 1, "text": "another"} for line in samples]
        samples.writelines(json.dumps(row) + "\n" for row in again)
    assert mirrored(read_results(folder)).texts == mirrored(read_results(measured[0])).texts


def test_plots_go_along_with_their_captions(measured: tuple[Path, Stored]) -> None:
    pytest.importorskip("matplotlib")
    _, wandb = measured
    plot = wandb.seen["summary"]["plots/quality-speed"]
    assert wandb.files[f"files/{plot['path']}"].startswith(b"\x89PNG") and "stand-in" in plot["caption"]


def test_nothing_of_the_user_the_machine_or_its_folders_is_stored(measured: tuple[Path, Stored]) -> None:
    folder, wandb = measured
    private = [USER, KEY, str(folder.parents[2]), str(ROOT), sys.prefix, sys.executable, os.sep + "home" + os.sep]
    private += [name for name in (socket.gethostname(),) if len(name) >= 5]  # a shorter one may be in any bytes
    assert wandb.files.keys() >= {"records"} and not [name for name in wandb.files if name.endswith((".log", ".py"))]
    for secret in private:
        assert [name for name, content in wandb.files.items() if secret.encode() in content] == [], secret


def test_the_results_say_nothing_of_a_tracker_and_wandb_leaves_nothing_elsewhere(
    measured: tuple[Path, Stored], machine: Path
) -> None:
    folder, _ = measured
    assert not [file.name for file in folder.iterdir() if ENTITY.encode() in file.read_bytes()]
    assert "tracker" not in (folder / "config.yaml").read_text()
    assert {file.name for file in (machine / "results").iterdir()} == {folder.parent.name, "wandb"}
    found = {file for file in machine.rglob("*") if file.is_file() and "wandb" in str(file.relative_to(machine))}
    assert found == {file for file in (machine / "results" / "wandb").rglob("*") if file.is_file()}


def test_a_run_that_goes_on_is_the_same_run(saved_pair: Path, tmp_path: Path, measured: tuple[Path, Stored]) -> None:
    overrides = ("limit=2", "reference=[]", *OFFLINE)
    quietly(toy_settings(saved_pair, tmp_path, *overrides))
    (first,) = folders(tmp_path)
    samples = next(tmp_path.rglob("samples.jsonl"))
    samples.write_text(samples.read_text().splitlines(keepends=True)[0])  # as if killed there
    quietly(toy_settings(saved_pair, tmp_path, *overrides))
    (second,) = folders(tmp_path)  # what was there before is out of date, and gone
    assert second != first and second.name.split("-")[-1] == first.name.split("-")[-1]
    wandb = stored(tmp_path)
    assert len(wandb.table()["data"]) == 2
    assert wandb.seen["run_id"] != measured[1].seen["run_id"]  # another cell is another run


def test_a_text_whose_licence_forbids_it_stays_here(saved_pair: Path, tmp_path: Path) -> None:
    quietly(toy_settings(saved_pair, tmp_path, "task=talk", "publish=true", "reference=[]", *OFFLINE))
    wandb = stored(tmp_path)
    said = {(prompt, turn): text for prompt, turn, text, *_ in wandb.table()["data"]}
    assert said["talk/one", 0].startswith("left out: its licence") and len(said) == 6
    assert "w1 w2" in said["talk/two", 1]


def test_a_model_whose_name_is_longer_than_a_tag_may_be_is_mirrored(
    measured: tuple[Path, Stored], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(measured[0], tmp_path / "copy" / "run")
    (folder / "summary.json").write_text(json.dumps({**summary_of(folder), "model": "m" * 90}))
    assert "kept on the disk" in mirrored_line(WandbTracker(mode="offline"), folder, tmp_path, capsys)
    assert "m" * 64 in stored(tmp_path).seen["tags"]


def mirrored_line(tracker: WandbTracker, run: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> str:
    tracker.mirror(run, results, None)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_without_a_network_the_copy_waits_on_the_disk_and_the_line_says_how_to_send_it(
    measured: tuple[Path, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    line = mirrored_line(WandbTracker(project="no-network"), measured[0], tmp_path, capsys)
    (folder,) = folders(tmp_path)
    assert line.startswith("wandb: not sent (") and "giving up" in line and f"wandb sync {folder}" in line
    assert KEY not in line
    assert stored(tmp_path).seen["state"] == "finished"


def test_without_a_key_the_line_says_so_and_the_next_cell_does_not_try_again(
    measured: tuple[Path, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = WandbTracker(project="no-key")
    assert "not sent (No API key configured" in mirrored_line(tracker, measured[0], tmp_path, capsys)
    asked: list[str] = []
    send = WandbTracker._send
    monkeypatch.setattr(WandbTracker, "_send", lambda *given: asked.append(given[-1]) or send(*given))
    assert "not sent (No API key configured" in mirrored_line(tracker, measured[0], tmp_path, capsys)
    assert asked == ["offline"] and len(folders(tmp_path)) == 1


@pytest.mark.parametrize(
    ("module", "seconds", "reason"),
    [(HANGS, 8, "no end within 8 s"), ("raise RuntimeError('out of order')", 60, "RuntimeError: out of order")],
)
def test_a_wandb_that_hangs_or_crashes_harms_no_run(
    saved_pair: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    seconds: int,
    reason: str,
) -> None:
    (tmp_path / "wandb.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    overrides = ("limit=1", "reference=[]", *OFFLINE, f"tracker.timeout={seconds}")
    folder = quietly(toy_settings(saved_pair, tmp_path / "r", *overrides))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("wandb:"))
    assert line == f"wandb: failed ({reason}); the results are not touched by that"
    assert summary_of(folder)["decoders"]["mtad"]["rows"] == 1 and not folders(tmp_path / "r")


def test_without_the_package_the_run_ends_before_it_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"needs the package wandb: pip install 'mtad-bench\[wandb\]'"):
        settings_of("tracker=wandb")
    (tmp_path / "wandbox").mkdir()  # such as wandb's own folder of runs, where one is started
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="needs the package wandbox"):
        look_for("wandbox", "wandb")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracker.mode=always", "tracker wandb: mode must be one of online, offline, not 'always'"),
        ("tracker.timeout=0", "timeout must be > 0"),
        ("tracker.project=''", "project must name a project"),
        (f"tracker.tags=[mine,{'x' * 65}]", "tags must have 1 to 64 characters, unlike 'x"),
        ("+tracker.api_key=x", "tracker wandb has no option 'api_key'"),
    ],
)
def test_a_wrong_option_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings_of("tracker=wandb", override)


def test_no_run_is_mirrored_unless_that_is_asked_for() -> None:
    assert settings_of().tracker is None
    assert settings_of("tracker=wandb").tracker == WandbTracker()

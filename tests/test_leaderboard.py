"""The leaderboard: only valid results stand on it, no number is invented, and a real browser sorts and filters it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from experiments.report.leaderboard import _hardware
from scripts.leaderboard import main
from tests.browser import ABSENT, PROGRAM, Browser, chromium

FROZEN = Path(__file__).parent / "fixtures" / "results-v1"
REFERENCE = Path(__file__).parents[1] / "results" / "reference"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
in_browser = [pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason=ABSENT)]


def made(tmp_path: Path, *places: Path) -> str:
    out = tmp_path / "out" / "board.html"
    main([*map(str, places), "--out", str(out)])
    return out.read_text(encoding="utf-8")


def table(html: str) -> list[dict[str, tuple[str, str]]]:
    """Of every line, words and title by column."""
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    heads = [unescape(head) for head in re.findall(r"<th scope.*?>(.*?)</th>", html)]
    lines = []
    for row in re.findall(r"<tr .*?</tr>", body, re.DOTALL):
        cells = re.findall(r"<td([^>]*)>(.*?)</td>", row, re.DOTALL)
        titles = [re.search('title="(.*?)"', attributes) for attributes, _ in cells]
        found = [
            (unescape(re.sub("<.*?>", "", words)), unescape(t[1]) if t else "")
            for (_, words), t in zip(cells, titles, strict=True)
        ]
        lines.append(dict(zip(heads, found, strict=True)))
    return lines


def summary(folder: Path, **changes: Any) -> Path:
    """A summary file with other content."""
    older = json.loads((FROZEN / "older" / "tiny-sql-table2.json").read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    file = folder / "made.json"
    file.write_text(json.dumps({**older, **changes}), encoding="utf-8")
    return file


def test_every_number_is_that_of_the_summary(tmp_path: Path) -> None:
    lines = table(made(tmp_path, FROZEN / "runs"))
    (file,) = FROZEN.glob("runs/*toy*/*/summary.json")
    told = json.loads(file.read_text(encoding="utf-8"))
    (line,) = [one for one in lines if one["decoder"][0] == "mtad"]
    (speed,) = [one for one in told["comparisons"] if one["metric"] == "speedup"]
    figures = told["decoders"]["mtad"]
    score = figures["intervals"]["score"]
    assert line["speed-up"][0] == f"{speed['value']:.2f} [{speed['low']:.2f}, {speed['high']:.2f}]"
    assert line["score"] == (f"{figures['score']['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]", "even")
    assert line["J/token"][0] == f"{figures['energy']['joules_per_token']:.3f}"
    assert line["tokens/forward"][0] == f"{figures['tokens_per_target_forward']:.2f}"
    assert line["precision"][0] == "float32" and line["hardware"][0].endswith(", 1 thread")
    assert line["sampling"][0] == "T=1, top-k 10, top-p 0.9" and line["checked"][0] == "rows"


def test_a_dash_says_why_and_no_interval_is_invented(tmp_path: Path) -> None:
    lines = table(made(tmp_path, FROZEN / "runs"))
    (line,) = [one for one in lines if one["decoder"][0] == "speculative"]
    assert line["J/token"] == (
        "-",
        "measured by default on GPUs only; energy=true asks for the processor's own counter",
    )
    assert re.fullmatch(r"\d\.\d\d", line["speed-up"][0]) and "fewer than 5 prompts" in line["speed-up"][1]
    for line in table(made(tmp_path, REFERENCE)):
        assert all(title for words, title in line.values() if words == "-"), line


def test_stand_ins_replays_mixtures_and_lone_summaries_are_marked(tmp_path: Path) -> None:
    replay = {"cost": "random weights in the shape of big", "decisions": "trace of tiny, sql", "run_id": "x"}
    file = summary(tmp_path / "one", replay=replay, code_versions=["a", "b"])
    line = table(made(tmp_path, file))[0]
    assert "replay: cost: random weights in the shape of big; decisions: trace of tiny, sql" in line["marks"][0]
    assert "mixed: rows of 2 versions of the code" in line["marks"][0]
    assert line["checked"] == ("form", "a summary without its rows: only its form was checked")
    assert line["hardware"] == ("-", "no environment.json beside the summary")
    weights = {"target": {"quantized": "4 bits"}, "draft": {"quantized": "8 bits"}}
    held = table(made(tmp_path, summary(tmp_path / "three", weights=weights)))[0]
    assert held["precision"][0] == "4 bits" and "quantized draft: 8 bits" in held["marks"][0]
    real = summary(tmp_path / "two", parameters={"target": 8 * 10**9, "draft": 10**9}, isolation=[])
    assert {one["marks"][0] for one in table(made(tmp_path, real))} == {""}


def test_alike_gpus_are_counted_and_unlike_ones_named() -> None:
    gpus = [{"name": name} for name in ("A", "A", "B")]
    assert _hardware({"processes": [{"gpu": gpus[0], "other_gpus": gpus[1:]}]}).words == "2 x A + B"


def test_what_is_not_valid_is_named_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(FROZEN / "runs", tmp_path / "runs")
    (file,) = tmp_path.glob("runs/*talk*/*/summary.json")
    told = json.loads(file.read_text(encoding="utf-8"))
    told["comparisons"][0]["value"] = 40.0
    file.write_text(json.dumps(told), encoding="utf-8")
    html = made(tmp_path, tmp_path / "runs")
    assert {line["task"][0] for line in table(html)} == {"toy"}
    assert "not valid. summary.json: comparisons.0.value is 40.0, but the rows give 0." in html
    assert "is left out: not valid" in capsys.readouterr().out
    for run in tmp_path.glob("runs/*toy*"):
        shutil.rmtree(run)
    with pytest.raises(SystemExit, match=r"^error: none of 1 runs is valid; python -m scripts.validate [^\n]+$"):
        main([str(tmp_path / "runs")])


def hostile(folder: Path) -> Path:
    """A valid summary in which all that others may name is an attack."""
    older = json.loads((FROZEN / "older" / "tiny-sql-table2.json").read_text(encoding="utf-8"))
    text = json.dumps(older).replace('"mtad"', json.dumps(f"{HOSTILE}label"))
    named = {"model": f'{HOSTILE}pair" x="', "task": f"{HOSTILE}task\ud800\x1b", "isolation": [f"{HOSTILE}finding"]}
    return summary(folder, **{**json.loads(text), **named})


def test_nothing_that_others_wrote_is_markup(tmp_path: Path) -> None:
    html = made(tmp_path, hostile(tmp_path / HOSTILE.replace("/", "")))
    assert "<script>document" not in html and "<img src=x" not in html and "\x1b" not in html
    assert html.count("<script>") == 1
    for where in ("label", "pair", "task", "finding"):
        assert f"onerror=alert(1)&gt;{where}" in html, where


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("board")
    made(place, FROZEN / "runs", REFERENCE, hostile(place / "sent"))
    return place / "out" / "board.html"


class TestInABrowser:
    pytestmark = in_browser
    column = "[...document.querySelectorAll('#board tbody tr')].map(row => row.cells[3].textContent)"

    def test_a_click_and_a_key_sort_by_number_with_dashes_last(self, browser: Browser, board: Path) -> None:
        browser.open(board, 1280)
        browser.value("document.querySelectorAll('#board th')[3].querySelector('button').click()")
        up = [cell for cell in browser.value(self.column) if cell != "-"]
        assert [float(cell.split()[0]) for cell in up] == sorted(float(cell.split()[0]) for cell in up)
        browser.value("document.querySelectorAll('#board th')[3].querySelector('button').focus()")
        for kind in ("keyDown", "keyUp"):
            pressed = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            browser.call("Input.dispatchKeyEvent", type=kind, **pressed)
        assert browser.value("document.querySelectorAll('#board th')[3].ariaSort") == "descending"
        cells = browser.value(self.column)
        assert float(cells[0].split()[0]) == max(float(cell.split()[0]) for cell in up)
        assert cells[len(up) :] == ["-"] * (len(cells) - len(up))

    def test_filters_show_a_pair_and_a_task_and_count(self, browser: Browser, board: Path) -> None:
        browser.open(board, 1280)
        choose = "(name, value) => { const one = document.querySelector(`select[name=${name}]`);"
        choose += " one.value = value; one.dispatchEvent(new Event('change')); }"
        browser.value(f"({choose})('task', 'toy')")
        shown = "[...document.querySelectorAll('#board tbody tr')].filter(row => row.offsetParent)"
        tasks = f"{shown}.map(row => row.cells[2].textContent)"
        assert browser.value(tasks) == ["toy", "toy"]
        assert browser.value("document.querySelector('#shown').textContent").startswith("2 of ")
        browser.value(f"({choose})('pair', 'tiny')")
        assert browser.value(tasks) == []
        browser.value(f"({choose})('task', '')")
        assert len(browser.value(tasks)) > 20

    def test_attacks_stay_text_and_nothing_is_loaded(self, browser: Browser, board: Path) -> None:
        browser.open(board, 1280)
        assert browser.value("document.title") == "Leaderboard" and browser.logged == []
        assert browser.value("document.querySelectorAll('script').length") == 1
        assert browser.value("document.querySelectorAll('img').length") == 0
        assert [asked for asked in browser.asked if not asked.startswith("data:")] == [board.as_uri()]

    @pytest.mark.parametrize("width", [390, 1280])
    def test_the_page_fits_the_window(self, browser: Browser, board: Path, width: int) -> None:
        browser.open(board, width)
        assert browser.value("document.documentElement.scrollWidth") == width
        inside = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.wide'))"
        assert browser.value(f"{inside}.every(e => e.getBoundingClientRect().right <= {width} + 1)")

    def test_it_needs_no_script_to_be_read(self, browser: Browser, board: Path) -> None:
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(board, 1280)
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
        assert browser.value("document.querySelector('.filters').offsetParent === null")
        assert browser.value("document.querySelectorAll('#board tbody tr').length") > 20

"""The page of results: everything is on it, nothing in it acts, and a real browser shows it at any width."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.report.page import MOST_LETTERS, MOST_VARIANTS, page
from experiments.report.results import read_results
from scripts.report import main
from tests.browser import ABSENT, PROGRAM, Browser, chromium
from tests.test_trace import TEXT, written

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
FOLDER = "<img src=x onerror=alert(1)>name"
ESCAPED = "&lt;script&gt;document.title="
in_browser = [pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason=ABSENT)]


def changed(folder: Path, **changes: Any) -> Path:
    """A run whose summary says something else."""
    file = folder / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


def hostile(folder: Path) -> Path:
    """A run in which all that others may name or write is an attack: text, label, task, prompt, machine, reason."""
    written(folder, text=HOSTILE + "\x1b[2J\ud800\u202e", token_ends=[3, 20, 40, 60, 70])
    for file in (folder / "samples.jsonl", folder / "prompts.jsonl", folder / "summary.json"):
        content = file.read_text(encoding="utf-8")
        renamed = content.replace('"mtad"', json.dumps(f"{HOSTILE}label")).replace('"p-1"', json.dumps(f"{HOSTILE}id"))
        file.write_text(renamed.replace("say \\u0007 it", f"{HOSTILE}asked"), encoding="utf-8")
    process = {"cpu": f"{HOSTILE}cpu", "packages": {}, "gpu": None, "gpu_reason": HOSTILE}
    (folder / "environment.json").write_text(json.dumps({"processes": [process]}), encoding="utf-8")
    return changed(folder, task=f"{HOSTILE}task", experiment=f"{HOSTILE}experiment", isolation=[f"{HOSTILE}finding"])


def html(place: Path, *prompts: str) -> str:
    return page(read_results(place), prompts)


def test_the_page_says_what_was_measured_and_on_what(tmp_path: Path) -> None:
    folder = changed(written(tmp_path / "run"), isolation=["others were loud"], experiment="figure9")
    process = {"cpu": "Abacus 3000", "packages": {"torch": "9.9"}, "gpu": {"name": "G1", "memory_bytes": 2**31}}
    (folder / "environment.json").write_text(json.dumps({"processes": [process]}), encoding="utf-8")
    made = html(tmp_path)
    for words in ("figure9", "Abacus 3000", "torch 9.9", "G1", "2 GiB", "others were loud", "no judge model was given"):
        assert words in made, words
    for section in ("summary", "claims", "tables", "plots", "traces", "environment", "notes"):
        assert f'<section id="{section}">' in made
        assert f'href="#{section}"' in made


def test_a_stand_in_is_called_one_wherever_its_figures_stand(tmp_path: Path) -> None:
    written(tmp_path / "run")
    made = html(tmp_path)
    assert "Everything on this page was measured on stand-ins." in made
    assert "† stand-in</summary>" in made
    figures = re.findall(r"<figcaption>(.*?)</figcaption>", made, re.DOTALL)
    assert figures and all("†" in caption for caption in figures)
    claims = made[made.index('id="claims"') : made.index('id="tables"')]
    assert claims.count("†</td><td>mtad† against autoregressive†</td>") == claims.count("a stand-in</td>") > 0
    assert "<strong>reproduced" not in made and "<strong>not reproduced" not in made


def test_a_real_pair_carries_no_dagger(tmp_path: Path) -> None:
    changed(written(tmp_path / "run"), parameters={"target": 8 * 10**9, "draft": 10**9})
    made = html(tmp_path)
    assert "†" not in made
    assert "stand-ins" not in made


def test_no_verdict_stands_without_its_scope_and_what_differs_from_the_papers_setting(tmp_path: Path) -> None:
    changed(written(tmp_path / "run"), parameters={"target": 8 * 10**9, "draft": 10**9})
    summary, claims = html(tmp_path).split('id="tables"')[0].split('id="claims"')
    told = re.findall(r"<strong>\d+</strong> ([^,]+?)[,.]", summary)
    assert told and all(words.endswith("(another setting)") for words in told)
    assert claims.count("<td>pair: ") == claims.count("another setting</td>") > 0


def test_what_is_claimed_and_what_was_measured_are_in_one_unit(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    energy = {"metric": "energy_ratio", "value": 0.4, "low": 0.3, "high": 0.5, "reason": None}
    others = [one for one in summary["comparisons"] if one["metric"] != "energy_ratio"]
    changed(folder, comparisons=[*others, {**others[0], **energy}])
    claims = html(tmp_path).split('id="claims"')[1]
    assert "2.84x less (J/token ratio 0.352)" in claims and "0.400 [0.300, 0.500], 2.50x less†" in claims


def test_texts_of_other_turns_and_repeats_are_counted(tmp_path: Path) -> None:
    written(tmp_path / "run", {"prompt_id": "p-3"}, {"prompt_id": "p-3", "repeat": 1}, {"prompt_id": "p-3", "turn": 1})
    assert "The first text of each variant; 2 more, of other turns or repeats" in html(tmp_path, "p-3")
    assert "The first text of each variant" not in html(tmp_path, "p-1")


def test_mixtures_and_unfinished_runs_are_named_at_the_top(tmp_path: Path) -> None:
    changed(written(tmp_path / "one"), code_versions=["a", "b"])
    (written(tmp_path / "two") / "summary.json").unlink()
    top = html(tmp_path).split('id="claims"')[0]
    assert '<li class="warning">MIXED: ' in top
    assert "two: not finished, 4 texts so far; left out" in top


def test_traces_are_of_the_first_prompts_or_of_those_that_are_named(tmp_path: Path) -> None:
    written(tmp_path / "run", {"prompt_id": "p-3"})
    assert re.findall(r"<h3>(p-\d)†", html(tmp_path)) == ["p-1", "p-2"]
    assert re.findall(r"<h3>(p-\d)†", html(tmp_path, "p-3")) == ["p-3"]


def test_a_trace_shows_each_token_by_its_origin_and_round(tmp_path: Path) -> None:
    written(tmp_path / "run")
    shown = '<span class="d">one two</span><span class="c">␛[2J</span><span class="t n">three</span>'
    assert html(tmp_path).count(shown) == 4
    assert TEXT not in html(tmp_path)


def test_more_variants_and_letters_than_a_reader_can_take_are_counted_instead(tmp_path: Path) -> None:
    folder = written(
        tmp_path / "run", text="x" * 3 * MOST_LETTERS, token_ends=[MOST_LETTERS * n // 2 for n in range(5)]
    )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    labels = [f"m{number}" for number in range(MOST_VARIANTS)]
    more = [{**row, "variant": label} for row in rows if row["variant"] == "mtad" for label in labels]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + more), encoding="utf-8")
    decoders = summary["decoders"]
    changed(folder, decoders={**decoders, **dict.fromkeys(labels, decoders["mtad"])})
    made = html(tmp_path)
    assert made.count("2 more variants are not shown here") == 2
    assert made.count('<section class="variant">') == 2 * MOST_VARIANTS
    assert made.count(f"[… {2 * MOST_LETTERS} more characters]") == 2 * MOST_VARIANTS
    assert made.count("x" * 100) < 2 * MOST_VARIANTS * MOST_LETTERS / 99


def test_a_summary_alone_has_a_page_that_says_what_it_lacks(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    made = html(folder / "summary.json")
    assert "no texts beside this summary" in made
    assert "not beside these summaries (environment.json)" in made


def test_nothing_that_others_wrote_is_markup(tmp_path: Path) -> None:
    hostile(tmp_path / FOLDER)
    made = html(tmp_path)
    assert "<script>document" not in made and "<img src=x" not in made
    for where in ("label", "id", "asked", "cpu", "task", "experiment", "finding", "name"):
        assert f"onerror=alert(1)&gt;{where}" in made, where
    assert "\x1b" not in made and "\u202e" not in made
    made.encode("utf-8")
    assert made.count(ESCAPED) > 10


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    written(tmp_path / "run")
    assert html(tmp_path) == html(tmp_path)


def test_the_page_is_written_beside_nothing_else_and_results_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "results" / "run")
    before = {file: file.read_bytes() for file in folder.rglob("*")}
    main([str(tmp_path / "results"), "--out", str(tmp_path / "made" / "here")])
    assert capsys.readouterr().out == f"{tmp_path / 'made' / 'here' / 'report.html'}\n"
    assert [file.name for file in (tmp_path / "made" / "here").iterdir()] == ["report.html"]
    assert {file: file.read_bytes() for file in folder.rglob("*")} == before


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--prompt", "no-such"], [".", "--out", "taken/under"]])
def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    written(tmp_path / "run")
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: [^\n]+$"):
        main(arguments)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that is an attack and of one that is none, with names too long for a phone."""
    place = tmp_path_factory.mktemp("results")
    hostile(place / FOLDER)
    written(place / ("long" * 30), text="unbroken" * 40, token_ends=[80, 160, 200, 240, 320])
    main([str(place), "--out", str(place / "out")])
    return place / "out" / "report.html"


class TestInABrowser:
    pytestmark = in_browser

    @pytest.mark.parametrize("width", [390, 1280])
    def test_the_page_fits_the_window_and_tables_scroll_by_themselves(
        self, browser: Browser, report: Path, width: int
    ) -> None:
        browser.open(report, width)
        assert browser.value("document.documentElement.scrollWidth") == width
        inside = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.wide'))"
        assert browser.value(f"{inside}.every(e => e.getBoundingClientRect().right <= {width} + 1)")
        assert browser.value("[...document.querySelectorAll('table')].every(e => e.closest('.wide'))")

    def test_it_runs_without_a_word_on_the_console_and_asks_the_network_for_nothing(
        self, browser: Browser, report: Path
    ) -> None:
        browser.open(report, 1280)
        assert browser.logged == []
        assert [asked for asked in browser.asked if not asked.startswith("data:")] == [report.as_uri()]

    def test_attacks_stay_text(self, browser: Browser, report: Path) -> None:
        browser.open(report, 1280)
        assert browser.value("document.title").startswith("Results: ")
        assert browser.value("document.querySelectorAll('script').length") == 1
        assert "<script>document.title='owned'</script>" in browser.value("document.body.innerText")

    def test_a_script_that_got_in_all_the_same_would_not_run(
        self, browser: Browser, report: Path, tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken.html"
        attack = "<script>document.title='owned'</script><img src='http://192.0.2.1/x.png'>"
        broken.write_text(report.read_text(encoding="utf-8").replace("<main>", f"<main>{attack}"), encoding="utf-8")
        browser.open(broken, 1280)
        assert browser.value("document.title").startswith("Results: ")
        assert any("Content Security Policy" in line for line in browser.logged)
        assert browser.value("[...document.images].every(e => e.src.startsWith('data:') || e.naturalWidth === 0)")

    def test_variants_stand_side_by_side_on_a_desk_and_below_each_other_on_a_phone(
        self, browser: Browser, report: Path
    ) -> None:
        tops = "new Set([...document.querySelector('.beside').children].map(e => e.getBoundingClientRect().top)).size"
        browser.open(report, 1280)
        assert browser.value(tops) == 1
        browser.open(report, 390)
        assert browser.value(tops) == 2

    def test_pictures_are_drawn(self, browser: Browser, report: Path) -> None:
        browser.open(report, 1280)
        assert browser.value("document.images.length") > 0
        assert browser.value("[...document.images].every(e => e.complete && e.naturalWidth > 300 && e.alt)")

    def test_origins_differ_without_colour_too(self, browser: Browser, report: Path) -> None:
        browser.open(report, 1280)
        look = "(e => [e.textDecorationLine, e.textDecorationStyle, e.fontWeight].join())(getComputedStyle(e))"
        looks = browser.value(f"[...document.querySelectorAll('.legend [class]')].slice(0, 4).map(e => {look})")
        assert len(set(looks)) == 4

    def test_a_click_sorts_a_table_by_its_numbers(self, browser: Browser, report: Path) -> None:
        browser.open(report, 1280)
        cells = "[...document.querySelectorAll('#summary tbody tr')].map(row => row.cells[6].textContent)"
        order = {}
        for direction in ("ascending", "descending"):
            browser.value("document.querySelectorAll('#summary th')[6].querySelector('button').click()")
            assert browser.value("document.querySelectorAll('#summary th')[6].ariaSort") == direction
            order[direction] = [int(cell) for cell in browser.value(cells)]
        assert order["ascending"] == sorted(order["ascending"])
        assert order["descending"] == order["ascending"][::-1]

    def test_dark_mode_has_light_letters_on_a_dark_ground(self, browser: Browser, report: Path) -> None:
        ground = "getComputedStyle(document.body).backgroundColor"
        browser.open(report, 1280)
        light = browser.value(ground)
        browser.open(report, 1280, dark=True)
        assert browser.value(ground) != light == "rgb(255, 255, 255)"

    def test_content_needs_no_script(self, browser: Browser, report: Path) -> None:
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(report, 390)
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
        assert browser.value("document.querySelectorAll('th button').length") == 0
        assert browser.value("document.querySelectorAll('.variant').length") > 0

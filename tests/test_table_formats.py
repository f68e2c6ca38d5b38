"""How figures read in tables, which of them is bold, and that no label breaks LaTeX, Markdown or HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from experiments.report.results import read_results
from experiments.report.tables import Cell, Column, Row, tables, to_html, to_latex, to_markdown
from experiments.report.tables.formats import latex
from experiments.report.tables.table import finished, shown, with_best
from tests.made_results import REFERENCE, made, of, save

RATIO = Column("speedup", "speed-up", ".2f", "higher")
NAME = Column("variant", "variant")


def plain(*values: tuple[float | None, float | None, float | None]) -> list[Row]:
    """Rivals of these values and intervals."""
    return [
        Row((Cell(f"v{n}"), Cell(v, low=low, high=high, null=1)), "", "run") for n, (v, low, high) in enumerate(values)
    ]


def bold(*values: tuple[float | None, float | None, float | None], better: str = "higher") -> list[int]:
    columns = (NAME, Column("x", "x", ".2f", better))
    return [n for n, one in enumerate(with_best(columns, plain(*values))) if one.cells[1].best]


def test_only_a_value_whose_interval_lies_beyond_all_others_is_bold() -> None:
    assert bold((2.0, 1.8, 2.2), (1.5, 1.4, 1.7), (1.0, 1.0, 1.0)) == [0]
    assert bold((2.0, 1.8, 2.2), (1.5, 1.4, 1.8)) == []
    assert bold((2.0, 1.8, 2.2), (1.6, 1.5, 1.7), (1.4, 0.9, 1.9)) == []
    assert bold((0.8, 0.7, 0.9), (1.0, 1.0, 1.0), better="lower") == [0]
    assert bold((0.8, 0.7, 0.9), (0.9, 0.85, 0.95), better="lower") == []


def test_nothing_is_bold_without_intervals_or_rivals() -> None:
    assert bold((2.0, None, None), (1.0, None, None)) == []
    assert bold((2.0, 1.9, 2.1), (1.0, None, None)) == []
    assert bold((2.0, 1.9, 2.1)) == []
    assert bold((2.0, 1.9, 2.1), (None, None, None)) == []


def test_what_is_slower_than_the_reference_is_not_bold() -> None:
    assert bold((0.9, 0.85, 0.95), (0.5, 0.4, 0.6), (1.0, 1.0, 1.0)) == [2]


def test_bold_is_written_in_every_format() -> None:
    columns = (NAME, RATIO)
    table = finished("t", "t", columns, with_best(columns, plain((2.0, 1.8, 2.2), (1.0, 1.0, 1.0))))
    assert r"\textbf{2.00}" in to_latex(table) and r"\textbf{1.00}" not in to_latex(table)
    assert "**2.00** [1.80, 2.20]" in to_markdown(table)
    assert '<b class="best">2.00</b> [1.80, 2.20]' in to_html(table)
    assert any(note.startswith("bold:") for note in table.notes)
    without = finished("t", "t", columns, with_best(columns, plain((2.0, 0.8, 2.2), (1.0, 1.0, 1.0))))
    assert not any(note.startswith("bold:") for note in without.notes) and "textbf" not in to_latex(without)


def test_marks_tell_an_interval_that_contains_the_null() -> None:
    assert shown(Cell(1.1, low=0.9, high=1.3, null=1), RATIO) == ("1.10", "[0.90, 1.30]*")
    assert shown(Cell(1.2, low=1.1, high=1.3, null=1), RATIO) == ("1.20", "[1.10, 1.30]")
    assert shown(Cell(1.2, low=1.1, high=1.3, null=1, lost=True), RATIO) == ("1.20", "[1.10, 1.30]°")
    assert shown(Cell(-0.2, low=-0.3, high=-0.1, null=0), RATIO)[0] == "\N{MINUS SIGN}0.20"
    assert shown(Cell(1.0, low=1.0, high=1.0, null=1), RATIO) == ("1.00", "")


def test_a_null_is_a_dash_and_its_reason_stands_below_once() -> None:
    columns = (NAME, RATIO, Column("y", "other", ".2f"))
    absent = [Row((Cell(f"v{n}"), Cell(None, "no meter"), Cell(None, "no meter"))) for n in range(3)]
    unbounded = Row((Cell("v3"), Cell(1.0, "one prompt", null=1), Cell(2.0)))
    table = finished("t", "t", columns, [*absent, unbounded])
    assert [note for note in table.notes if "meter" in note] == ["\N{EN DASH} in speed-up, other: no meter"]
    assert "[\N{EN DASH}] in speed-up: one prompt" in table.notes
    assert "| v0 | \N{EN DASH} | \N{EN DASH} |" in to_markdown(table)
    assert "v0 & -- & --" in to_latex(table)


HOSTILE = r"a_b&c%d$e#f{g}h~i^j\k|l<m>n[o]*p`q τ é"


def test_no_label_breaks_latex(tmp_path: Path) -> None:
    summary, _ = made({"fast": HOSTILE, "slow": "autoregressive"})
    for table in tables(read_results(save(tmp_path / "run", summary))):
        written = to_latex(table)
        assert r"a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k" in written
        assert r"\texttt{U+03C4}" in written
        bare = re.sub(r"\\[\\&%$#_{}]|%\n", "", written)
        depth = 0
        for sign in bare:
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0
        assert depth == 0
        width = len(re.findall("[lr]", re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", written)[1]))  # type: ignore[index]
        lines = [line for line in written.splitlines() if line.endswith(r" \\") and "multicolumn" not in line]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {width - 1}
        assert not re.search(r"[^\x00-\x7f\u00c0-\u00ff]", written)


def test_no_control_character_reaches_latex() -> None:
    assert latex("a\x1b[31mb\x00\x7f") == r"a\texttt{U+001B}{[}31mb\texttt{U+0000}\texttt{U+007F}"


def test_no_label_breaks_markdown_or_html(tmp_path: Path) -> None:
    summary, _ = made({"fast": HOSTILE + "<script>", "slow": "autoregressive"})
    table = of(save(tmp_path / "run", summary), f"main-{tmp_path.name}")
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script>" not in to_html(table) and "<script>" not in to_markdown(table)


class Balance(HTMLParser):
    """Fails on a tag that is closed out of turn, and collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open += [tag] if tag != "br" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_balanced_and_has_every_label() -> None:
    for table in tables(read_results(REFERENCE)):
        page = Balance()
        page.feed(to_html(table))
        assert not page.open
        place = [column.key for column in table.columns].index("variant")
        assert all(str(one.cells[place].value) in page.text for one in table.rows)

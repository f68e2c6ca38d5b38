"""Files of plots open, stay the same, change no results; bad input ends in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from experiments.report.plots import picture
from scripts.plots import main
from tests.drawn import REAL, along_gamma, of, summary
from tests.made_rows import row, summary_of


def test_files_open_hold_their_fonts_and_are_the_same_when_drawn_again() -> None:
    figure = {"x": "gamma", "panels": ["score"]}
    first, again = (of(along_gamma(figure=figure))["gamma-sweep"] for _ in range(2))
    png, pdf = picture(first, "png"), picture(first, "pdf")
    inches = first.figure.get_size_inches()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == pytest.approx(tuple(inches * 150), abs=1)
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    for form, content in (("png", png), ("pdf", pdf), ("svg", picture(first, "svg"))):
        assert picture(again, form) == content  # type: ignore[arg-type]


def test_a_label_with_dollars_is_no_formula() -> None:
    rows = [row(label, f"p{i}", decoder=label) for label in ("a $\\nonsense$", "autoregressive") for i in range(6)]
    made = {**summary_of(rows, "a $\\nonsense$", "autoregressive"), **REAL}
    for plot in of(made).values():
        assert picture(plot, "png").startswith(b"\x89PNG")


def test_a_folder_of_results_and_a_summary_file_are_drawn_and_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "results" / "tiny-sql-mtad" / "abc"
    run.mkdir(parents=True)
    for file in (run / "summary.json", tmp_path / "table.json"):
        file.write_text(json.dumps(summary()), encoding="utf-8")
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.rglob("*.json")}
    main([str(tmp_path / "results"), str(tmp_path / "table.json"), "--out", str(tmp_path / "new" / "er")])
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    kinds = ("quality-speed", "time")
    names = [
        f"{name}-{kind}.{form}" for name in ("tiny-sql-mtad", "table") for kind in kinds for form in ("pdf", "png")
    ]
    assert [file.name for file in files] == names
    assert all(file.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for file in files)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in before} == before


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"comparisons":[],"decoders":{"autoregressive":{}}}'])
def test_what_is_no_summary_is_named_in_one_line(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: [^\n]*$") as stopped:
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert tmp_path.name in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_one_place_twice_and_a_place_that_is_no_folder_are_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "made.json"
    file.write_text(json.dumps(summary()), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: two plots would be called made-[^\n]*$"):
        main([str(file), str(file), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^error: cannot write to [^\n]*$"):
        main([str(file), "--out", str(file)])

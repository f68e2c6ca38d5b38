"""The notebook runs from its first cell to its last, and shows what its text says.

Its cells are run here one after the other in one namespace, rather than by a Jupyter kernel, which would add two dozen
packages to what the tests need. Nothing in it is a kernel's own: no magic, no widget.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_house import MACHINE_PATH
from tests.toy import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "my_method.ipynb"


def cells(kind: str) -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def executed(folder: Path, changes: dict[str, str]) -> dict[str, Any]:
    """What the cells leave, after changes to their text; each has a file, where Python finds the source of classes."""
    space: dict[str, Any] = {"__name__": "__main__"}
    for number, text in enumerate(cells("code")):
        for old, new in changes.items():
            text = text.replace(old, new)
        file = folder / f"cell{number}.py"
        file.write_text(text, encoding="utf-8")
        exec(compile(text, str(file), "exec"), space)
    return space


def test_it_is_saved_without_outputs_so_that_no_machine_s_paths_and_times_are_in_it() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert not MACHINE_PATH.search(text)


@pytest.mark.platform
def test_every_cell_runs_and_the_frames_compare_the_method_with_mtad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    left = executed(tmp_path, {"limit=12": "limit=5", "max_new_tokens=48": "max_new_tokens=24"})
    found, against = left["found"], left["against"]
    assert list(found.variants["variant"]) == ["floor", "floor-low", "mtad", "autoregressive", "speculative"]
    assert {"mtad", "autoregressive", "speculative"} <= set(against["reference"])
    assert set(against["metric"]) == {"speedup", "perplexity_ratio", "score_difference"}
    ratio = against[(against["metric"] == "perplexity_ratio") & (against["reference"] != "floor-low")]
    assert ratio["low"].notna().all(), "five prompts are enough for intervals"
    forwards = found.variants.set_index("variant")["tokens_per_target_forward"]
    assert forwards["floor-low"] >= forwards["floor"] > forwards["autoregressive"] == 1
    (axes,) = left["figure"].axes
    assert len(axes.lines) == len(found.variants)
    out = capsys.readouterr().out
    assert "Floor: " in out and "Mtad: " in out
    assert {path.parent.name for path in tmp_path.glob("results/*/*")} == {"tiny-sql-floor"}

"""Batches in reports: the table of windows, the energy table that takes their joules, and the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.batch_figures import batches
from experiments.report.plots import plots
from experiments.report.results import read_results
from experiments.report.tables import tables, to_markdown
from tests.made_results import made as summary_of
from tests.made_results import of, save
from tests.test_batch_pass import ASKED
from tests.test_batch_pass import made as windows_of


def with_batches(folder: Path, joules: float | None = 30.0, **changes: Any) -> Path:
    """A run's folder with windows at sizes 1 and 2."""
    summary, rows = summary_of({"fast": "mtad", "slow": "autoregressive"}, **changes)
    save(folder, {**summary, "batches": batches(*windows_of(joules=joules), ASKED)}, rows)
    return folder


def test_a_line_for_each_variant_and_size_with_intervals_over_windows(tmp_path: Path) -> None:
    table = of(with_batches(tmp_path / "run"), "batches")
    keys = [column.key for column in table.columns]
    lines = {(row.cells[keys.index("label")].value, row.cells[keys.index("batch")].value): row for row in table.rows}
    assert list(lines) == [("mtad", 1), ("mtad", 2), ("autoregressive", 1), ("autoregressive", 2)]
    faster = lines["mtad", 2].cells[keys.index("batch_speedup")]
    assert faster.value == pytest.approx(3)
    rate = lines["mtad", 2].cells[keys.index("batch.tokens_per_second")]
    assert rate.low is not None and rate.high is not None and rate.low < rate.value < rate.high  # type: ignore[operator]
    assert any("UNEXPLAINED: 6" in note for note in table.notes)
    assert any("s or more (nvml_total_energy)" in note for note in table.notes)
    assert "batch" in to_markdown(table)


def test_the_energy_table_takes_the_joules_of_windows_where_there_are_any(tmp_path: Path) -> None:
    folder = with_batches(tmp_path / "run", experiment="table2")
    table = of(folder, "table2")
    keys = [column.key for column in table.columns]
    found = [tuple(row.cells[keys.index(key)].value for key in ("label", "batch")) for row in table.rows]
    assert found == [("mtad", 1), ("mtad", 2), ("autoregressive", 1), ("autoregressive", 2)]
    joules = [row.cells[keys.index("joules_per_token")].value for row in table.rows]
    assert joules[0] == pytest.approx(2 * joules[1])  # type: ignore[operator]
    assert table.rows[0].cells[keys.index("energy_ratio")].value == pytest.approx(1 / 3)


def test_curves_have_a_panel_of_joules_only_where_they_were_measured(tmp_path: Path) -> None:
    drawn = {plot.name.rsplit("-", 1)[-1]: plot for plot in plots(read_results(with_batches(tmp_path / "a" / "run")))}
    assert [axes.get_xlabel() for axes in drawn["batches"].figure.axes] == ["batch (texts)"] * 3
    with_batches(tmp_path / "b" / "run", joules=None)
    (without,) = (plot for plot in plots(read_results(tmp_path / "b")) if plot.name.endswith("batches"))
    assert len(without.figure.axes) == 2
    line = without.figure.axes[0].lines[0]
    xs, ys = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert list(xs) == [1, 2] and ys[1] == pytest.approx(2 * ys[0])


def test_runs_without_windows_have_neither(tmp_path: Path) -> None:
    save(tmp_path / "run", summary_of()[0])
    results = read_results(tmp_path)
    assert "batches" not in [table.name for table in tables(results)]
    assert not [plot for plot in plots(results) if plot.name.endswith("batches")]

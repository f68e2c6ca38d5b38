"""Writes results as Parquet, for other tools: python -m scripts.export RESULTS --to FOLDER

RESULTS is a folder of results, the folder of one run, or a summary file. Three files, described in docs/formats.md:
variants.parquet and comparisons.parquet (a line for each variant and each comparison of each run), and rows.parquet, a
line for each text. Reads results only, and changes none of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.journal import disk
from experiments.optional import need
from experiments.report.results import read_results
from mtad.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder of results or of one run, or a summary")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the files go")
    options = parser.parse_args(arguments)
    try:
        export(options.results, options.to)
    except UserError as error:
        sys.exit(f"error: {error}")


def export(place: Path, to: Path) -> None:
    """Write the results at `place` as Parquet. Raises UserError."""
    need("pyarrow", "report")
    from experiments.report.columns import comparisons_table, rows_table, variants_table, write_table

    results = read_results(place)
    with disk("write to", to):
        to.mkdir(parents=True, exist_ok=True)
    tables = {
        "variants": variants_table(results),
        "comparisons": comparisons_table(results),
        "rows": rows_table(results),
    }
    for name, table in tables.items():
        file = to / f"{name}.parquet"
        write_table(table, file)
        print(f"{file}: {table.num_rows} lines, {table.num_columns} columns")
    for note in results.notes:
        print(f"note: {note}")


if __name__ == "__main__":
    main()

"""Writes the tables of results: python -m scripts.tables RESULTS [--out DIR]

RESULTS is a folder of results, the folder of one run, or a summary file such as results/reference/tiny-sql.json. Every
table is written as LaTeX (booktabs), Markdown and CSV. Reads results only, and changes none of them.
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
    """Write all tables and print where they are; a user's mistake is one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tables", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder of results or of one run, or a summary")
    parser.add_argument("--out", type=Path, default=Path("tables"), metavar="DIR", help="default: tables")
    options = parser.parse_args(arguments)
    try:
        write(options.results, options.out)
    except UserError as error:
        sys.exit(f"error: {error}")


def write(place: Path, out: Path) -> None:
    """Write the tables of the results at `place`. Raises UserError."""
    need("pandas", "report")
    from experiments.report.tables import tables, to_csv, to_latex, to_markdown

    results = read_results(place)
    made = [
        (out / f"{table.name}.{end}", form(table))
        for table in tables(results)
        for end, form in (("tex", to_latex), ("md", to_markdown), ("csv", to_csv))
    ]
    with disk("write to", out):
        out.mkdir(parents=True, exist_ok=True)
        for file, content in made:
            file.write_text(content, encoding="utf-8", newline="\n")
            print(file)
    for note in results.notes:
        print(f"note: {note}")


if __name__ == "__main__":
    main()

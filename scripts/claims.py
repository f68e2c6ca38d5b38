"""Sets results beside the paper's claims: python -m scripts.claims RESULTS [--out DIR]

RESULTS is a folder of results, the folder of one run, or a summary file such as results/reference/tiny-sql.json. Every
claim of the paper's abstracts and of its authors' examples gets the measured value and a verdict with its scope, on the
terminal, in claims.md, claims.csv and claims.json. Reads results only, and changes none of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.journal import disk, to_json
from experiments.report.claims import judge_claims
from experiments.report.claims_text import counted, csv, data, footnotes, markdown, terminal
from experiments.report.results import read_results
from experiments.table_style import readable
from mtad.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and write the verdicts; a user's mistake is one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.claims", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder of results or of one run, or a summary")
    parser.add_argument("--out", type=Path, default=Path("claims"), metavar="DIR", help="default: claims")
    options = parser.parse_args(arguments)
    try:
        write(options.results, options.out)
    except UserError as error:
        sys.exit(f"error: {error}")


def write(place: Path, out: Path, console: Console | None = None) -> None:
    """Judge the results at `place`. Raises UserError."""
    results = read_results(place)
    verdicts = judge_claims(results)
    console = readable(console)
    console.print(terminal(verdicts))
    for line in (counted(verdicts), *footnotes(verdicts, results.notes)):
        console.print(line, markup=False)
    with disk("write to", out):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("claims.md", markdown(verdicts, results.notes)),
            ("claims.csv", csv(verdicts)),
            ("claims.json", to_json(data(verdicts, results.notes)) + "\n"),
        ):
            (out / name).write_text(text, encoding="utf-8", newline="\n")
            console.print(str(out / name), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()

"""Writes report.html, all of some results on one page: python -m scripts.report RESULTS [--out DIR] [--prompt ID ...]

RESULTS is a folder of results, the folder of one run, or a summary file. The page needs no network and no server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.journal import disk, replace
from experiments.optional import need
from experiments.report.results import read_results
from mtad.errors import UserError

NAME = "report.html"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and print its path."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder of results or of a run, or a summary")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help=f"where {NAME} goes (default: .)")
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="ID", help="trace this one; repeatable (default: a few)"
    )
    options = parser.parse_args(arguments)
    try:
        for module in ("jinja2", "matplotlib", "pandas"):
            need(module, "report")
        from experiments.report.page import page

        html = page(read_results(options.results), options.prompt)
        with disk("write to", options.out):
            options.out.mkdir(parents=True, exist_ok=True)
        replace(options.out / NAME, html)
        print(options.out / NAME)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

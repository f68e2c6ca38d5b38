"""Writes a leaderboard of results that are valid: python -m scripts.leaderboard RESULTS [...] [--out leaderboard.html]

RESULTS are folders of results, of runs, or summary files. What is not valid is left out and named on the page;
`python -m scripts.validate` says all that is wrong with it. The page needs no network and no server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.journal import disk, replace
from experiments.optional import need
from mtad.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and print its path."""
    parser = argparse.ArgumentParser(prog="python -m scripts.leaderboard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="folders of results, or summary files")
    parser.add_argument(
        "--out", type=Path, default=Path("leaderboard.html"), metavar="FILE", help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    try:
        write(options.results, options.out)
    except UserError as error:
        sys.exit(f"error: {error}")


def write(places: Sequence[Path], out: Path) -> None:
    """Write the page of the results at `places`. Raises UserError, also if none of them is valid."""
    for module in ("jinja2", "jsonschema"):
        need(module, "report")
    from experiments.formats.validate import validate
    from experiments.report.leaderboard import leaderboard
    from experiments.report.trace import visible

    runs = [run for place in places for run in validate(place)[0]]
    left_out = [run for run in runs if run.problems or run.summary is None]
    if len(left_out) == len(runs):
        raise UserError(f"none of {len(runs)} runs is valid; python -m scripts.validate says what is wrong")
    with disk("write to", out):
        out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, leaderboard(runs))
    print(out)
    for run in left_out:
        print(f"note: {visible(run.name)} is left out: {'not valid' if run.problems else 'not finished'}")


if __name__ == "__main__":
    main()

"""Checks results that others send: python -m scripts.validate RESULTS [...]

Every file against its schema, the files against each other, and the figures against the rows. Nothing in the folders is
run, changed, or followed out of them. Ends with 0 if all is valid, else with 1 and a line for each problem.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.optional import need
from mtad.errors import UserError

TOLD = 40  # problems in all
LONGEST = 400  # characters of a line, most of which others may have named


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of the runs, then what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m scripts.validate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="folders of results, or summary files")
    parser.add_argument("--most", type=int, default=TOLD, metavar="N", help=f"problems to print (default: {TOLD})")
    options = parser.parse_args(arguments)
    try:
        problems = check(options.results)
    except UserError as error:
        sys.exit(f"error: {error}")
    for line in problems[: options.most]:
        print(f"problem: {line}")
    if len(problems) > options.most:
        print(f"problem: ... and {len(problems) - options.most} more")
    sys.exit(1 if problems else 0)


def check(places: Sequence[Path]) -> list[str]:
    """Print what was checked; all problems, a line each. Raises UserError."""
    need("jsonschema", "report")
    from experiments.formats.validate import validate

    runs, notes = [], []
    for place in places:
        found, unseen = validate(place)
        runs += found
        notes += unseen + [f"{run.name}: {note}" for run in found for note in run.notes]
    width = max(len("run"), *(len(_line(run.name)) for run in runs))
    print(f"{'run':{width}}  variants  texts  verdict")
    for run in runs:
        decoders = (run.summary or {}).get("decoders")
        variants = len(decoders) if isinstance(decoders, dict) else "-"
        texts = "-" if run.texts is None else run.texts
        print(f"{_line(run.name):{width}}  {variants:>8}  {texts:>5}  {run.verdict}")
    for note in notes:
        print(f"note: {_line(note)}")
    return [_line(f"{run.name}: {problem}") for run in runs for problem in run.problems]


def _line(text: str) -> str:
    """One line of no great length: a folder's name must not write lines of its own into the table."""
    from experiments.report.trace import visible

    line = visible(text).replace("\n", " ")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


if __name__ == "__main__":
    main()

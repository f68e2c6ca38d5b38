"""Draws results: python -m scripts.plots RESULTS... [--out DIR]

RESULTS is a folder of results, one run's folder, or a summary file such as results/reference/tiny-sql.json. Every plot
becomes <name>.pdf and <name>.png. Results are read only.
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
    """Draw all that is named. Exits with one line on bad input."""
    parser = argparse.ArgumentParser(prog="python -m scripts.plots", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="a folder of results, or a summary")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the pictures go (default: .)")
    options = parser.parse_args(arguments)
    try:
        for file in draw(options.results, options.out):
            print(file)
    except UserError as error:
        sys.exit(f"error: {error}")


def draw(places: Sequence[Path], out: Path) -> list[Path]:
    """Write the plots of all places into a folder; returns their files. Raises UserError."""
    need("matplotlib", "report")
    from experiments.report.plots import FORMATS, picture, plots

    found = [read_results(place) for place in places]
    for note in (note for results in found for note in results.notes):
        print(f"note: {note}", file=sys.stderr)
    drawn = [plot for results in found for plot in plots(results)]
    twice = {plot.name for plot in drawn if sum(plot.name == other.name for other in drawn) > 1}
    if twice:
        raise UserError(
            f"two plots would be called {min(twice)}; draw these results one by one, with an --out for each"
        )
    files = []
    with disk("write to", out):
        out.mkdir(parents=True, exist_ok=True)
        for plot in drawn:
            for form in FORMATS:
                file = out / f"{plot.name}.{form}"
                file.write_bytes(picture(plot, form))
                files.append(file)
    return files


if __name__ == "__main__":
    main()

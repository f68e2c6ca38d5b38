"""Draws the table of a run as a picture: python -m scripts.picture RUN_FOLDER FILE.svg

Reads summary.json only. The picture names no font to be fetched, so it looks alike without a network.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from experiments.table import print_table
from experiments.table_style import PIPED_COLUMNS

SVG = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code, ", "")


def draw(run: Path, picture: Path) -> None:
    """Write the table of `run` to `picture` as SVG."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    console = Console(record=True, width=PIPED_COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    print_table(summary, console)
    console.save_svg(str(picture), title="make run", theme=DEFAULT_TERMINAL_THEME, code_format=SVG)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not (Path(sys.argv[1]) / "summary.json").is_file():
        sys.exit("error: usage: python -m scripts.picture RUN_FOLDER FILE.svg, with a folder that holds summary.json")
    draw(Path(sys.argv[1]), Path(sys.argv[2]))

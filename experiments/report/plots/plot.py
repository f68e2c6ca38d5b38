"""A plot and its files. Knows matplotlib; refuses to know results.

Files are the same byte for byte when drawn again from the same results: no date, no chance, fonts inside.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

Format = Literal["pdf", "png", "svg"]
FORMATS: tuple[Format, ...] = ("pdf", "png")
DOTS_PER_INCH = 150
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,  # TrueType outlines, which journals ask for
    "text.parse_math": False,  # a label may hold a dollar
    "svg.hashsalt": "mtad",  # or ids would be drawn by chance
}
UNDATED: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}


@dataclass(frozen=True)
class Plot:
    """A picture of one run.

    Attributes:
        name: of its files, without an ending.
        title: one line; says if the figures are those of a stand-in.
        caption: what is drawn, how to read it, and what is missing.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def picture(plot: Plot, form: Format) -> bytes:
    """The content of a file."""
    content = io.BytesIO()
    with mpl.rc_context(STYLE):
        plot.figure.savefig(content, format=form, dpi=DOTS_PER_INCH, metadata=UNDATED[form])
    return content.getvalue()

"""Tables as LaTeX, Markdown, CSV and HTML. Knows what is special in each of them; refuses to know what a table says."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from html import escape

from experiments.report.tables.table import ARROWS, Cell, Column, Table, shown, shown_paper

LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after a line break it would be an optional argument
    "]": "{]}",
    "*": "{*}",
    "`": r"\textasciigrave{}",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": "$-$",
    "†": r"\textsuperscript{\dag}",
    "°": r"$^{\circ}$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # narrow tables keep their size
MARKDOWN = re.compile(r"([\\`*_<>|~])")


def to_latex(table: Table) -> str:
    """A whole `table` environment, no wider than the text; needs the packages booktabs and graphicx."""
    heads = _heads(table)
    lines = [rf"\caption{{{latex(table.title)}}}", rf"\label{{tab:{re.sub(r'[^A-Za-z0-9.-]+', '-', table.name)}}}"]
    sides = "".join("r" if right else "l" for _, right in heads)
    lines += [FITTED, rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}", r"\toprule"]
    split = [head.split("\n") for head, _ in heads]
    for line in range(max(map(len, split))):
        lines.append(_latex_line([latex(head[line]) if line < len(head) else "" for head in split]))
    for section, rows in table.sections():
        lines.append(r"\midrule")
        if section:
            lines.append(rf"\multicolumn{{{len(heads)}}}{{@{{}}l}}{{\emph{{{latex(section)}}}}} \\")
        for row in rows:
            lines += _latex_row(table, row.cells)
    notes = [rf"\par {latex(note)}" for note in table.notes]
    return "\n".join(
        [
            r"% \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{3pt}",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip",
            *([r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def to_markdown(table: Table) -> str:
    """A heading, a pipe table and the notes as a list."""
    heads = _heads(table)
    lines = [f"### {markdown(table.title)}", ""]
    lines.append(_markdown_line([markdown(_one_line(head)) for head, _ in heads]))
    lines.append(_markdown_line(["---:" if right else ":---" for _, right in heads]))
    for section, rows in table.sections():
        if section:
            lines.append(_markdown_line([f"*{markdown(section)}*", *[""] * (len(heads) - 1)]))
        for row in rows:
            lines.append(_markdown_line([_bold(*cell, "**", "**") for cell in _printed(table, row.cells, markdown)]))
    notes = ["", *(f"- {markdown(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([*lines, *notes, ""])


def to_html(table: Table) -> str:
    """A figure with the table and its notes, for a page that brings the style: classes results, wide, section, best."""
    heads = _heads(table)
    head = "".join(
        f'<th scope="col"{_side(right)}>{escape(text).replace(chr(10), "<br>")}</th>' for text, right in heads
    )
    body = []
    for section, rows in table.sections():
        if section:
            body.append(f'<tr class="section"><th colspan="{len(heads)}">{escape(section)}</th></tr>')
        for row in rows:
            cells = [_bold(*cell, '<b class="best">', "</b>") for cell in _printed(table, row.cells, escape)]
            sides = [_side(right) for _, right in heads]
            body.append("<tr>" + "".join(f"<td{s}>{c}</td>" for s, c in zip(sides, cells, strict=True)) + "</tr>")
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return (
        f'<figure class="results" id="table-{escape(table.name)}"><figcaption>{escape(table.title)}</figcaption>\n'
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(body) + "\n</tbody>\n"
        f'</table></div>\n<ul class="notes">{notes}</ul></figure>\n'
    )


def to_csv(table: Table) -> str:
    """One line of heads, then plain numbers with all their digits; what is not known is empty, with its reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = [_csv_kind(table, place) for place in range(len(table.columns))]
    writer.writerow(
        ["section", *(column.key + end for column, kind in zip(table.columns, kinds, strict=True) for end in kind)]
    )
    for row in table.rows:
        entries = [row.section]
        for cell, kind in zip(row.cells, kinds, strict=True):
            entries += ["" if (found := getattr(cell, name)) is None else str(found) for name in kind.values()]
        writer.writerow(entries)
    return text.getvalue()


def latex(text: str) -> str:
    """Plain text for LaTeX; letters that its usual fonts lack are given by their number."""
    return "".join(_latex_letter(letter) for letter in " ".join(text.split()))


def markdown(text: str) -> str:
    """Plain text for a cell or a paragraph of Markdown."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()).replace("&", "&amp;"))


def _latex_letter(letter: str) -> str:
    special = LATEX.get(letter)
    if special is not None:
        return special
    known = (letter.isascii() and letter.isprintable()) or (letter.isalpha() and ord(letter) < 0x100)
    return letter if known else rf"\texttt{{U+{ord(letter):04X}}}"


def _latex_row(table: Table, cells: Sequence[Cell]) -> list[str]:
    """One line, and if there are intervals a second one for them, so that the table stays narrow."""
    printed = _printed(table, cells, latex)
    values = [rf"\textbf{{{value}}}" if best else value for value, _, best in printed]
    intervals = [rf"\scriptsize {interval}" if interval else "" for _, interval, _ in printed]
    return [_latex_line(values), *([_latex_line(intervals)] if any(intervals) else [])]


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heads(table: Table) -> list[tuple[str, bool]]:
    """What is printed above each column, and whether it is of numbers; the paper's figures follow ours."""
    heads = []
    for place in table.printed:
        column = table.columns[place]
        arrow = f" {ARROWS[column.better]}" if column.better else ""
        heads.append((column.head + arrow, bool(column.digits)))
        if table.has_paper(place):
            heads.append((f"{column.head.splitlines()[0]}\nin the paper", True))
    return heads


def _printed(table: Table, cells: Sequence[Cell], escaped: Callable[[str], str]) -> list[tuple[str, str, bool]]:
    """Value, interval, and whether it is the best, for every printed column."""
    printed = []
    for place in table.printed:
        value, interval = shown(cells[place], table.columns[place])
        printed.append((escaped(value), escaped(interval), cells[place].best))
        if table.has_paper(place):
            printed.append((escaped(shown_paper(cells[place], table.columns[place])), "", False))
    return printed


def _one_line(head: str) -> str:
    return Column("", head).title


def _bold(value: str, interval: str, best: bool, before: str, after: str) -> str:
    value = f"{before}{value}{after}" if best else value
    return f"{value} {interval}" if interval else value


def _side(right: bool) -> str:
    return ' class="number"' if right else ""


def _csv_kind(table: Table, place: int) -> dict[str, str]:
    """The CSV columns of a column: how their names end, and which attribute of a cell stands there."""
    column: Column = table.columns[place]
    if not column.digits:
        return {"": "value"}
    interval = {"_low": "low", "_high": "high"} if any(row.cells[place].low is not None for row in table.rows) else {}
    if column.better:
        interval = {"_low": "low", "_high": "high", "_p_holm": "p_holm", "_detectable": "detectable"}
    paper = {"_paper": "paper", "_paper_version": "version"} if table.has_paper(place) else {}
    return {"": "value", **interval, "_reason": "reason", **paper}

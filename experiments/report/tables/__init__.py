"""Tables for a paper: what they hold (`layouts`), and how they are written (`formats`)."""

from experiments.report.tables.formats import to_csv, to_html, to_latex, to_markdown
from experiments.report.tables.layouts import tables
from experiments.report.tables.table import Cell, Column, Row, Table

__all__ = ["Cell", "Column", "Row", "Table", "tables", "to_csv", "to_html", "to_latex", "to_markdown"]

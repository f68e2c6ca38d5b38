"""What a check says, and the table of all of them. Knows no models and no machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

from experiments.table_style import plain_table, readable
from mtad.errors import UserError

Verdict = Literal["ok", "warning", "fails", "not checked"]
STYLES: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "fails": "bold red", "not checked": "dim"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was looked at; of one model, its role comes first.
        found: what was found, or why it was not looked for.
        advice: what to do about it, where `found` does not say so itself.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def tried(check: str, ask: Callable[[], str], advice: str = "") -> Finding:
    """What `ask` finds; where it raises a UserError the check fails, and `advice` is added."""
    try:
        return Finding(check, "ok", ask())
    except UserError as error:
        return Finding(check, "fails", str(error), advice)


def failing(findings: Sequence[Finding]) -> list[str]:
    """The checks that fail, each once."""
    return list(dict.fromkeys(finding.check for finding in findings if finding.verdict == "fails"))


def print_findings(title: str, findings: Sequence[Finding], console: Console | None = None) -> None:
    """A row for each, and below what was found what to do."""
    table = plain_table(title, ["check", "verdict"], [])
    table.add_column("what was found, and -> what to do", overflow="fold")
    for finding in findings:
        advice = f"\n-> {finding.advice}" if finding.advice else ""
        style = STYLES[finding.verdict]
        table.add_row(escape(finding.check), f"[{style}]{finding.verdict}[/]", escape(finding.found + advice))
    readable(console).print(table)

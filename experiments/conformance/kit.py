"""All checks, in the order of the certificate, and their run on one decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from experiments.build import missing
from experiments.conformance import forwards, law, purity, stubs
from experiments.conformance.finding import Check, Finding, Subject, Verdict, inapplicable
from mtad.errors import first_line

CHECKS: dict[str, Check] = {
    "law": law.law,
    "greedy": law.greedy,
    "cached": forwards.cached,
    "ends": stubs.ends,
    "luck": forwards.luck,
    "batch": forwards.batch,
    "rounds": purity.rounds,
    "never": stubs.never,
    "always": stubs.always,
    "purity": purity.purity,
    "options": purity.options,
}


@dataclass(frozen=True)
class Examined:
    """A check's name, what it asks for, and what it found."""

    name: str
    owed: str
    finding: Finding


def examine(subject: Subject, only: Collection[str] = ()) -> Iterator[Examined]:
    """Every check in turn, or those named. Raises UserError if the decoder cannot be made."""
    subject.make()
    lacking = missing(subject.config)
    for name, check in CHECKS.items():
        if only and name not in only:
            continue
        finding = inapplicable(f"it cannot run here: {lacking}") if lacking else _found(check, subject)
        yield Examined(name, (check.__doc__ or "").strip().partition("\n")[0], finding)


def _found(check: Check, subject: Subject) -> Finding:
    try:
        return check(subject)
    except Exception as error:  # whatever another's code raises is a finding about it, not the kit's end
        return Finding(Verdict.FAILED, f"raised {type(error).__name__}: {first_line(error)}")

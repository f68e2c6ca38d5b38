"""The certificate: what was examined, with what, and what every check found; as JSON data and as Markdown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from experiments.code_version import code_hash, git_version
from experiments.conformance.finding import Figure, Subject, Verdict
from experiments.conformance.kit import Examined
from experiments.environment import PACKAGES, fact
from experiments.journal import disk, replace
from experiments.redact import redact

SCHEMA_VERSION = 1
NAME = "certificate"
SOURCE = {"round": "rounds", "write": "whole texts", "run": "whole texts, by an engine"}


def record(subject: Subject, examined: Sequence[Examined], command: str) -> dict[str, Any]:
    """JSON data of a certificate; `verdict` is failed if any check is, and "not applicable" if none was made."""
    decoder: Any = subject.make()
    verdicts = {one.finding.verdict for one in examined}
    order = (Verdict.FAILED, Verdict.PASSED, Verdict.NOT_APPLICABLE)
    content = {
        "schema_version": SCHEMA_VERSION,
        "decoder": subject.name,
        "verdict": next(verdict for verdict in order if verdict in verdicts),
        "writes": SOURCE[subject.kind],
        "claims": {name: bool(getattr(decoder, name)) for name in ("lossless", "drafts", "joint")},
        "options": dataclasses.asdict(decoder),
        "seed": subject.seed,
        "source": _source(type(decoder)),
        "command": command,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "code": code_hash(),
        **fact("git", git_version(), "not run from the project's own git checkout"),
        "checks": [
            {
                "name": one.name,
                "owed": one.owed,
                "verdict": one.finding.verdict,
                "says": one.finding.says,
                "figures": dict(one.finding.figures),
            }
            for one in examined
        ],
    }
    safe: dict[str, Any] = redact(content)
    return safe


def _source(kind: type) -> dict[str, Any]:
    """Where the decoder's code is from, and its hash: of the file of its class."""
    path = getattr(sys.modules[kind.__module__], "__file__", None)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else None
    package = next(iter(packages_distributions().get(kind.__module__.partition(".")[0], [])), None)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        **fact("sha256", digest, "the class has no file"),
        **fact("package", package and f"{package} {version(package)}", "the class is of no installed package"),
    }


def markdown(content: Mapping[str, Any]) -> str:
    """The certificate to be read."""
    options = ", ".join(f"{name} = {value}" for name, value in content["options"].items()) or "none"
    claims = ", ".join(f"{name} = {str(value).lower()}" for name, value in content["claims"].items())
    packages = ", ".join(f"{name} {number}" for name, number in content["packages"].items())
    source = content["source"]
    facts = {
        "Class": f"`{source['class']}`, sha256 of its file {source['sha256'] or '-'}",
        "Package": source["package"] or "none",
        "Options": options,
        "Says of itself": f"writes {content['writes']}; {claims}",
        "Seed": content["seed"],
        "Command": f"`{content['command']}`",
        "Made": content["made"],
        "With": f"Python {content['python']}, {packages}",
        "Code": f"{content['code']}, git {content['git'] or '-'}",
    }
    rows = [
        f"| {one['name']} | {one['owed']} | **{one['verdict']}** | {_cell(one['says'])} | {_figures(one['figures'])} |"
        for one in content["checks"]
    ]
    lines = [
        f"# Conformance of {content['decoder']}: {content['verdict']}",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "| check | what is owed | verdict | found | figures |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "docs/conformance.md says how each check works, what it cannot see, and what the figures mean.",
    ]
    return "\n".join(lines) + "\n"


def save(content: Mapping[str, Any], folder: Path) -> None:
    """Write certificate.json and certificate.md. Raises UserError."""
    with disk("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace(folder / f"{NAME}.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    replace(folder / f"{NAME}.md", markdown(content))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _figures(figures: Mapping[str, Figure]) -> str:
    shown = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in figures.values())
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in zip(figures, shown, strict=True)) or "-"

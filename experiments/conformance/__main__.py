"""Conformance kit: python -m experiments.conformance decoder=NAME [decoder.OPTION=VALUE ...] [--out FOLDER]

Examines a decoder, ours or another package's (hydra.searchpath=[pkg://PACKAGE.conf]), on small models in memory whose
laws are known, and writes a certificate, as Markdown and JSON. KEY=VALUE is as for run.py: seed=N changes the texts,
results_dir=FOLDER where certificates go. Ends with exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtad.errors import UserError

SEEDS = 10**9  # thousands of texts have a seed of their own made from it, of 64 bits


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine and write; a user's mistake is one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="decoder=NAME, its options, seed")
    parser.add_argument("--out", type=Path, help="folder of the certificate (RESULTS_DIR/conformance/NAME)")
    options = parser.parse_intermixed_args(given)
    try:
        verdict = certify(options.overrides, options.out, " ".join(["python -m experiments.conformance", *given]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; no certificate was written", file=sys.stderr)
        sys.exit(130)
    if verdict == "failed":
        sys.exit(1)


def certify(overrides: Sequence[str], out: Path | None, command: str) -> str:
    """Examine, print each finding as it comes, save the certificate; its verdict. Raises UserError."""
    # Imported here because torch takes seconds, and --help need not wait for it.
    from experiments.conformance.certificate import NAME, record, save
    from experiments.conformance.kit import examine
    from mtad.quiet import quiet

    subject, results = asked(overrides)
    examined = []
    with quiet():
        for one in examine(subject):
            print(f"{one.name:8} {one.finding.verdict:15} {one.finding.says}", flush=True)
            examined.append(one)
    content = record(subject, examined, command)
    folder = out or results / "conformance" / subject.name
    save(content, folder)
    print(f"{subject.name}: {content['verdict']}\n{folder / NAME}.md, .json")
    return str(content["verdict"])


def asked(overrides: Sequence[str]) -> tuple[Any, Path]:
    """The decoder that the command line names (a `Subject`), and results_dir. Raises UserError."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from experiments.composed import composed, configured
    from experiments.conformance.finding import Subject

    if not any(one.startswith("decoder=") for one in overrides):
        raise UserError("which decoder? Name one, as in decoder=mtad")
    with configured():
        config: Any = OmegaConf.to_container(composed("config", overrides))
        name = str(HydraConfig.get().runtime.choices["decoder"])
    if type(config["seed"]) is not int or abs(config["seed"]) >= SEEDS:
        raise UserError(f"seed must be a whole number below {SEEDS} in size, not {config['seed']!r}")
    return Subject(name, config["decoder"], config["seed"]), Path(str(config["results_dir"]))


if __name__ == "__main__":
    main()

"""Benchmark: python -m scripts.bench [--device cuda] [--limit N] [--sections texts,reads,batches] [KEY=VALUE ...]

One process, variants interleaved: our decoders against transformers' own and against each other, at the same gamma and
with each one's best options; the time outside model forwards; read cost against nodes; the batch curve. Writes
bench-cpu or bench-gpu as .json and .md. The same command goes on where an interrupted one ended, and measures nothing
that is there already. What is measured is conf/bench.yaml; KEY=VALUE changes that, as for run.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtad.errors import UserError

SECTIONS = ("texts", "reads", "batches")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write; a user's mistake is one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_intermixed_args(given)
    # Imported here because torch takes seconds, and --help need not wait for it.
    from experiments.benchmark.command import Asked, bench
    from experiments.stopping import stoppable

    try:
        asked = Asked(
            device=options.device,
            overrides=tuple(_overrides(options)),
            sections=_sections(options.sections),
            models=tuple(options.model or ()),
            limit=options.limit,
            quick=options.quick,
            fresh=options.fresh,
            out=options.out,
            command=" ".join(["python -m scripts.bench", *given]),
        )
        with stoppable("the same command goes on"):
            bench(asked)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=" ".join(lines[2:]))
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="further settings, as for run.py")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index> (default: cpu)")
    parser.add_argument("--limit", type=int, metavar="N", help="prompts (default: conf/bench.yaml, bench.limit)")
    parser.add_argument("--out", type=Path, default=Path("results/reference"), metavar="DIR", help="for both files")
    parser.add_argument("--sections", default=",".join(SECTIONS), metavar="A,B", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--model", action="append", metavar="NAME", help="a pair of conf/model; may be repeated")
    parser.add_argument("--engine", metavar="NAME", help="auto, recorded or eager")
    parser.add_argument("--dtype", metavar="NAME", help="fp32, bf16 or fp16")
    parser.add_argument("--quick", action="store_true", help="whether everything works; the figures say nothing")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    return parser


def _overrides(options: argparse.Namespace) -> list[str]:
    named = {"engine": options.engine, "dtype": options.dtype}
    return [*(f"{key}={value}" for key, value in named.items() if value is not None), *options.settings]


def _sections(named: str) -> tuple[str, ...]:
    """In the order in which they are measured. Raises UserError."""
    asked = named.split(",")
    if unknown := [name for name in asked if name not in SECTIONS]:
        raise UserError(f"--sections: there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return tuple(name for name in SECTIONS if name in asked)


if __name__ == "__main__":
    main()

"""Replay: python -m experiments.replay TRACE [KEY=VALUE ...]

Does the reads and commits of a run again on another pair, such as model=llama2-13b model.weights=random: what its
decoders cost there, in seconds and, with energy=true, joules. TRACE is a trace.jsonl, a run's folder, or a results_dir
with one run. Decoders, prompts and texts are the trace's; model, device, energy, batch_size, limit, results_dir and so
on are as for run.py. The same command again resumes. docs/replay.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtad.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay a trace; a user's mistake is one line."""
    options = _parser().parse_intermixed_args(arguments)
    # Imported here because torch takes seconds, and --help need not wait for it.
    from experiments.replay.command import replay
    from experiments.stopping import stoppable

    try:
        with stoppable("the same command resumes"):
            replay(options.trace, options.settings)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m experiments.replay", description=" ".join(lines[2:]))
    parser.add_argument("trace", type=Path, metavar="TRACE", help="of a run: trace.jsonl, its folder, or results_dir")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, as for run.py")
    return parser


if __name__ == "__main__":
    main()

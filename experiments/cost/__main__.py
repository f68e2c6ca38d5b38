"""What reads cost and what follows for a run: `python -m experiments.cost model=tiny decoder=mtad` (see --help)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from mtad.errors import UserError

CONF = str(Path(__file__).parents[2] / "conf")
RECORD = "cost.json"


@hydra.main(version_base="1.3", config_path=CONF, config_name="cost")  # type: ignore[untyped-decorator]
def main(config: DictConfig) -> None:
    """Read the settings and study their run; a user's mistake is one line, not a traceback."""
    try:
        study(config)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; what the run has measured is kept", file=sys.stderr)
        sys.exit(130)


def study(config: DictConfig) -> None:
    """Make or reuse the run, time reads, print tables and write cost.json into the run's folder. Raises UserError."""
    # Imported here because torch takes seconds, and --help need not wait for it.
    from experiments.build import construct
    from experiments.cost.options import CostOptions
    from experiments.cost.reads import check_room
    from experiments.cost.show import print_study
    from experiments.cost.study import Study
    from experiments.groups import drop_sweep_file
    from experiments.memory import forecast
    from experiments.plan import prepare
    from experiments.process import find_meter
    from experiments.progress import say
    from experiments.records import settled
    from experiments.redact import redact
    from experiments.runner import run, tuned
    from experiments.scoring import with_grades
    from experiments.settings import read_settings

    drop_sweep_file()
    asked: Any = OmegaConf.to_container(config).get("cost")  # type: ignore[union-attr]
    options = construct("cost", CostOptions, asked)
    with open_dict(config):
        config.pop("cost", None)  # no part of the run
    settings = read_settings(config)
    plan = prepare(replace(settings, tune=None))
    if options.context is not None:  # before tuning and the run, which may take long
        check_room(plan.blueprint.max_positions, options.context, options.nodes)
    if options.predict:
        settings = tuned(settings)
        plan = prepare(settings)
        run(settings)
    with plan.folder.locked():
        measured = settled(plan.folder.samples.rows(), plan.cells) if options.predict else []
        rows = with_grades(measured, plan.folder.grades.rows())
        meter, no_meter = find_meter(plan.settings, plan.placement)
        for line in forecast(plan).say(plan.device):
            say(line)
        say(f"timing reads of {len(options.nodes)} sizes, and what decoders do between reads, on {plan.device}")
        record = redact(Study(plan, options, rows, meter, no_meter).record())
        plan.folder.write_json(RECORD, record)
    print_study(record)
    say(f"written to {plan.folder.path / RECORD}")


if __name__ == "__main__":
    main()

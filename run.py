"""Measures a decoder and its references on a task: `python run.py decoder=mtad task=sql` (see --help)."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from mtad.errors import UserError

CONF = str(Path(__file__).parent / "conf")


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")  # type: ignore[untyped-decorator]
def main(config: DictConfig) -> None:
    """Read the settings, run them; a user's mistake is one line, not a traceback."""
    # Imported here because torch takes seconds, and --help need not wait for it.
    from experiments.doctor.examine import examine
    from experiments.groups import drop_sweep_file
    from experiments.runner import run_all
    from experiments.settings import read_each
    from experiments.stopping import stoppable
    from experiments.sweep import failed
    from mtad.parallel import is_follower, team
    from mtad.shared import follow

    if is_follower():
        follow()
        return
    drop_sweep_file()
    resumes = f"the same command{' without fresh=true' if config.get('fresh') else ''} resumes"
    try:
        with stoppable(resumes), team.together():
            each = read_each(config)
            (examine if each[0].doctor else run_all)(each)
        return
    except UserError as error:
        mistake = str(error)
    except KeyboardInterrupt:
        print(f"interrupted; {resumes}", file=sys.stderr)
        sys.exit(130)
    failed(mistake)  # here, for an exception that a sweep keeps must not keep the one before it, and so the loaded pair


if __name__ == "__main__":
    main()

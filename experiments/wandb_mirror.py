"""The child that speaks with wandb: `python -m experiments.wandb_mirror REQUEST` gives it one finished run.

All of the run is sent each time, so whatever wandb had of it before is out of date, and its folder here is deleted.
Nothing of the machine goes along: no git, code, console, host or user, no absolute path.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from experiments.mirrored import Mirrored, mirrored
from experiments.optional import need
from experiments.report.results import Results, read_results
from mtad.errors import UserError, first_line

SILENT = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": "",
    "save_code": False,
    "silent": True,
    "symlink": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_viewer": True,
    "x_graphql_retry_max": 2,  # a network that is not there need not be waited for
    "x_graphql_retry_wait_max_seconds": 2.0,
    "x_graphql_retry_wait_min_seconds": 1.0,
    "x_save_requirements": False,
}
CONNECTING = 0.7  # the share of the time left after which wandb itself gives up, and says why


def main(request: Mapping[str, Any]) -> None:
    """Mirror the run; the last line printed says where it is."""
    signal.setitimer(signal.ITIMER_REAL, request["timeout"])  # ends this even if nobody is left to
    results = read_results(Path(request["run"]))
    content = mirrored(results)
    folder = Path(request["dir"])
    folder.mkdir(parents=True, exist_ok=True)
    before = _folders(folder, content.id)
    scratch = gettempdir()  # deleted with this process, for wandb's logs and copies, which name places of this machine
    os.environ |= {"WANDB_CACHE_DIR": scratch, "WANDB_DATA_DIR": scratch}
    address, left_out = _send(request, content, results)
    fresh = max(_folders(folder, content.id) - before, default=None)
    if fresh is None:
        sys.exit("wandb has written nothing; does a variable WANDB_... of the environment switch it off?")
    shutil.rmtree(fresh / "logs")
    for old in before:
        shutil.rmtree(old)
    place = f"sent, {address}" if address else f"kept on the disk; to send it: wandb sync {fresh}"
    print("; ".join(filter(None, [place, left_out])))


def _folders(folder: Path, name: str) -> set[Path]:
    """What wandb has written here for the run of that id."""
    pattern = re.compile(rf"(offline-)?run-\d{{8}}_\d{{6}}-{re.escape(name)}(-\d+)?")
    return {found for found in folder.glob("wandb/*run-*") if pattern.fullmatch(found.name)}


def _send(request: Mapping[str, Any], content: Mirrored, results: Results) -> tuple[str | None, str]:
    """Give wandb the content and pictures; the address at which they show, if online, and what was left out."""
    wandb = need("wandb", "wandb")
    try:
        run = wandb.init(
            **{key: request[key] for key in ("mode", "project", "entity", "group", "dir")},
            id=content.id,
            resume="allow",
            name=content.name,
            notes=content.notes,
            tags=[*content.tags, *request["tags"]],
            config=dict(content.config),
            allow_val_change=True,  # of a run that is resumed, by newer code
            settings=wandb.Settings(init_timeout=signal.getitimer(signal.ITIMER_REAL)[0] * CONNECTING, **SILENT),
        )
        run.summary.update(dict(content.metrics))
        table = wandb.Table(columns=list(content.columns), data=[list(texts) for texts in content.texts])
        table.bind_to_run(
            run, "samples", run.step
        )  # else it becomes an artifact too, which lies elsewhere on this disk
        pictures, left_out = _pictures(results)  # this takes seconds, and is not begun before wandb has answered
        images = {name: wandb.Image(image, caption=caption) for name, (image, caption) in pictures.items()}
        run.log({"samples": table, **images})
        run.finish()
        wandb.teardown()
    except wandb.Error as error:
        sys.exit(first_line(error))
    return run.url if request["mode"] == "online" else None, left_out


def _pictures(results: Results) -> tuple[dict[str, tuple[Any, str]], str]:
    """Each plot of the run by its name, as a PIL image and a caption; why there are none, if a package is missing."""
    try:
        need("matplotlib", "report")
        images, plots = need("PIL.Image", "report"), need("experiments.report.plots", "report")
    except UserError as error:
        return {}, f"pictures are left out: {error}"
    prefix = f"{results.runs[0].name.replace('/', '-')}-"
    drawn = {plot.name.removeprefix(prefix): (plots.picture(plot, "png"), plot) for plot in plots.plots(results)}
    return {
        f"plots/{name}": (images.open(BytesIO(png)), f"{plot.title}. {plot.caption}")
        for name, (png, plot) in drawn.items()
    }, ""


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

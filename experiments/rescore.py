"""Grades the texts of a run again, without generating: `python -m experiments.rescore RUN_FOLDER [task.path=...]`.

The texts come from the run's folder, the answers from the task's source, which must be the same as it was. Results
hold no paths of the machine that wrote them, so a task with local files needs them named again.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.build import build
from experiments.journal import Row
from experiments.progress import say
from experiments.records import RunFolder, text_key
from experiments.scoring import graded
from experiments.summary import facts_of, prompt_hash, with_verdicts, write_summary
from experiments.table import print_table
from experiments.task import Prompt, Task
from mtad.errors import UserError, first_line

HASHED = "@sha256:"  # in place of a path, see experiments/identity.py


def main(arguments: Sequence[str] | None = None) -> None:
    """A user's mistake is one line, not a traceback."""
    parser = argparse.ArgumentParser(prog="python -m experiments.rescore", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="the folder with samples.jsonl")
    parser.add_argument("options", nargs="*", metavar="task.KEY=VALUE", help="options of the task to be changed")
    asked = parser.parse_args(arguments)
    try:
        rescore(asked.run, asked.options)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the grades are as they were", file=sys.stderr)
        sys.exit(130)


def rescore(path: Path, options: Sequence[str]) -> None:
    """Replace the grades of a run and what follows from them. Raises UserError."""
    folder = RunFolder(path)
    if not folder.samples.path.is_file():
        raise UserError(f"{path} is no folder of a run: it has no samples.jsonl")
    with folder.locked():
        before = folder.read_json("summary.json")
        if not before:
            raise UserError(f"{path} has no summary.json: the command that began the run finishes it")
        if before.get("replay"):
            raise UserError(f"{path} is a replay: its texts are those of a trace, and are not graded")
        try:
            facts = facts_of(before)
        except KeyError as error:
            raise UserError(f"{path}: its summary.json lacks {error}; the command that made it makes it anew") from None
        task = _task(folder, options, facts.task_name)
        rows, prompts = folder.samples.rows(), {prompt.id: prompt for prompt in task.prompts()}
        _check_same(folder, rows, prompts)
        task.check()
        records = list(graded(task, prompts, rows))
        last = {text_key(record): record["grades"] for record in folder.grades.rows()}
        changed = sum(last.get(text_key(record)) != record["grades"] for record in records)
        if verdicts := folder.judge.rows():
            rows = with_verdicts(rows, verdicts, verdicts[-1]["judge"])
        folder.grades.rewrite(records)
        summary = write_summary(folder, facts, task, rows, records)
    say(f"{len(records)} texts graded again, {changed} of them differently: {path}")
    print_table(summary)


def _task(folder: RunFolder, options: Sequence[str], name: str) -> Task:
    """The task as the run's config.yaml has it, with options changed. Raises UserError."""
    file = folder.path / "config.yaml"
    for option in options:
        if not re.match(r"task\.\w+=", option):
            raise UserError(f"only options of the task can be changed, as in task.path=FOLDER, not {option!r}")
    try:
        config = OmegaConf.create({"task": OmegaConf.load(file).task})
        config.merge_with_dotlist(list(options))
        asked: Any = OmegaConf.to_container(config, resolve=True)
    except (OSError, AttributeError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"cannot read the task of {file}: {first_line(error)}") from None
    for key, value in asked["task"].items():
        if HASHED in str(value):
            raise UserError(f"results do not say where {str(value).split(HASHED)[0]} lies: give task.{key}=PATH")
    task: Task = build(f"task {name}", asked["task"])
    return task


def _check_same(folder: RunFolder, rows: Sequence[Row], prompts: Mapping[str, Prompt]) -> None:
    """Raises UserError unless the source still has all prompts of the run, with the same answers."""
    hashes = {known["prompt_id"]: known["hash"] for known in folder.prompts.rows()}
    for name in dict.fromkeys(row["prompt_id"] for row in rows):
        if name not in hashes:
            raise UserError(f"{folder.prompts.path} has no prompt {name}: the command that made the run makes it anew")
        if name not in prompts:
            raise UserError(f"prompt {name} of the run is not in the task's source")
        if prompt_hash(prompts[name]) != hashes[name]:
            raise UserError(f"prompt {name} has another text or answer in the task's source than it had in the run")


if __name__ == "__main__":
    main()

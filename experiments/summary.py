"""The summary of a run from the files in its folder, when a run ends and when its texts are graded again.

`experiments/summarise.py` makes figures of rows; this reads the rows and what stands beside them, asks the task for
figures and files of its own, and writes summary.json. Refuses to know models and settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any

from experiments.approximation_figures import approximation
from experiments.batch_figures import batches
from experiments.energy import alike
from experiments.energy_report import Energy
from experiments.figure import figure
from experiments.journal import SCHEMA_VERSION, Row, replace, to_json
from experiments.memory_report import NO_PEAK, summed_up
from experiments.records import RunFolder, stable_hash, text_key
from experiments.redact import redact
from experiments.scoring import with_grades
from experiments.summarise import summarise
from experiments.task import Prompt, Task
from experiments.teacher import Forced
from experiments.teacher import figures as teacher_figures
from mtad.meter.device import Kind

OTHERS = (
    "weights",
    "parameters",
    "experiment",
    "figure",
    "approximation",
    "batch_size",
    "left_out",
    "tuning",
    "replay",
    "chat",
    "prompts_cut",
    "prompts_too_long",
)
NO_TEXTS = "the task has no texts of its own to be read"
NO_STDERR = "of one prompt, or of this figure, there is none"


@dataclass(frozen=True)
class Facts:
    """What a summary says that no row tells.

    Attributes:
        labels: the decoder under study first.
        groups: of variants, by label.
        margin: what still counts as no loss.
        no_energy: why there are no joules, if there are none.
        blocks: which records of energy count, see `alike`: least seconds, and source.
        others: further keys of the summary, `OTHERS`, as they are.
    """

    run_id: str
    model: str
    task_name: str
    labels: Sequence[str]
    groups: Mapping[str, str]
    margin: float | None
    no_energy: str
    blocks: tuple[float, Kind | None]
    others: Mapping[str, Any]


def facts_of(summary: Mapping[str, Any]) -> Facts:
    """The facts that an earlier summary holds."""
    decoders = summary["decoders"]
    return Facts(
        run_id=summary["run_id"],
        model=summary["model"],
        task_name=summary["task"],
        labels=list(decoders),
        groups={label: figures["group"] for label, figures in decoders.items()},
        margin=summary["noninferiority_margin"],
        no_energy=next(iter(decoders.values()))["energy"]["joules_per_token_reason"] or "not measured",
        blocks=tuple(summary["blocks"]),
        others={key: summary.get(key) for key in OTHERS},  # not all are in summaries of the first versions
    )


def write_summary(
    folder: RunFolder, facts: Facts, task: Task, rows: Sequence[Row], grades: Sequence[Row]
) -> dict[str, Any]:
    """Write and return the summary of `rows`, once the records `grades` are joined to them, and the task's files."""
    rows = with_grades(rows, grades)
    processes = folder.read_json("environment.json").get("processes", [])
    summary = summarise(
        rows,
        facts.run_id,
        facts.model,
        facts.task_name,
        facts.labels,
        processes,
        facts.margin,
        Energy(alike(folder.energy.rows(), *facts.blocks), facts.labels, facts.no_energy),
        facts.groups,
    )
    for label, figures in summary["decoders"].items():
        written = [row for row in rows if row["variant"] == label]
        figures["task_figures"] = {
            name: {**found, "stderr_reason": NO_STDERR if found.get("stderr") is None else None}
            for name, found in task.figures(written).items()
        }
        figures |= approximation(folder.approximation.rows(), written, facts.others["approximation"])
        for name, lines in task.files(label, written).items():
            file = folder.exports / name
            file.parent.mkdir(parents=True, exist_ok=True)
            replace(file, "".join(to_json(line) + "\n" for line in lines))
    forced = _forced(folder.teacher.rows())
    memory = summed_up(processes)
    graders = {stable_hash(row["grader"]): row["grader"] for row in rows}
    summary |= {
        **facts.others,
        "batches": batches(folder.batches.rows(), rows, facts.others["batch_size"]),
        "grouping": task.grouping,
        "task_origin": redact(dict(task.origin())),
        "graders": list(graders.values()),
        "blocks": list(facts.blocks),
        "memory": memory,
        "memory_reason": None if memory else NO_PEAK,
        "teacher_forced": forced,
        "teacher_forced_reason": None if forced else NO_TEXTS,
    }
    folder.write_json("summary.json", summary)
    return summary


def _forced(records: Sequence[Row]) -> dict[str, Any] | None:
    """How probable the target finds the task's own texts; None where it was not asked."""
    if not records:
        return None
    texts = [Forced(**{field.name: record[field.name] for field in fields(Forced)}) for record in records]
    found: dict[str, Any] = {}
    for name, one in teacher_figures(texts).items():
        found |= figure(name, one["value"], one["reason"])
    return {
        **found,
        "tokens": sum(text.tokens for text in texts if text.log_likelihood is not None),
        "window": texts[0].window,
        "stride": texts[0].stride,
    }


def with_verdicts(rows: Sequence[Row], verdicts: Sequence[Row], judge: str) -> list[Row]:
    """The rows, each with what the judge of that name has found, if it has read it."""
    found = {text_key(record): record for record in verdicts if record["judge"] == judge}
    return [{**row, **({"judge": found[text_key(row)]} if text_key(row) in found else {})} for row in rows]


def describe_prompt(prompt: Prompt, prompt_tokens: Sequence[int | None], chat: bool, publish: bool) -> Row:
    """The row of prompts.jsonl; with `publish` a text that may not be published again leaves its hash.

    Args:
        prompt_tokens: of each turn; None where it depends on answers.
        chat: the turns were put in a chat template, with their instructions.
    """
    hidden = publish and prompt.private
    turns = [
        {"user": (said.instruction if chat else "") + said.plain, "reply": said.reply}
        if not hidden
        else {"sha256": sha256(said.plain.encode("utf-8", "surrogatepass")).hexdigest()}
        for said in prompt.turns
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "prompt_id": prompt.id,
        "group": prompt.group,
        "hash": prompt_hash(prompt),
        "prompt_tokens": list(prompt_tokens),
        "prompt_tokens_reason": "differs with the decoder's own answers" if None in prompt_tokens else None,
        "turns": turns,
        "answer": None if hidden else dict(prompt.answer),
        "left_out_reason": "its licence asks not to publish it again (publish=true)" if hidden else None,
    }


def prompt_hash(prompt: Prompt) -> str:
    """Tells whether a prompt, with its answer, is the one that was measured."""
    return stable_hash([[said.instruction, said.plain, said.reply] for said in prompt.turns] + [dict(prompt.answer)])

"""One run: prepare, measure what is not measured yet, report.

First every variant writes a text for every prompt and repeat, in random order prompt by prompt, so that drift of the
machine hits all alike. Passes of their own follow, so that they cannot disturb the clock: the task grades
the texts, a judge reads them, their blocks are set beside the best ones, blocks of texts are written again under an
energy meter, and windows of them in batches. A tuned run is two: one on prompts of its own chooses options, and a plain
run measures them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from experiments.approximation_pass import approximate
from experiments.batch_pass import asked_of, measure_batches
from experiments.code_version import check_code
from experiments.energy import EnergyPass, Timed, alike, missing_rounds, source_of, without_joules
from experiments.identity import published
from experiments.isolation import disturbances
from experiments.journal import Row
from experiments.judge import load_judge
from experiments.plan import Plan, changed, prepare, split
from experiments.process import Process
from experiments.progress import progress, say
from experiments.records import TEXT, settled, stable_hash, text_key
from experiments.redact import redact
from experiments.scoring import graded, grader, with_grades
from experiments.settings import Settings
from experiments.stopping import at_once, check
from experiments.summary import Facts, describe_prompt, with_verdicts, write_summary
from experiments.table import print_table
from experiments.teacher import force
from experiments.tune import choose, plan_trials, record, trial_variants, tuned_variants
from mtad.errors import UserError
from mtad.meter.device import Kind


def run_all(each: Sequence[Settings]) -> None:
    """Run one after the other; what fails by its user's mistake does not stop the others. Raises UserError."""
    errors = []
    for settings in each:
        try:
            run(settings)
        except UserError as error:
            if len(each) == 1:
                raise
            say(f"error: task {settings.task_name}: {error}")
            errors.append(settings.task_name)
    if errors:
        raise UserError(f"{len(errors)} of {len(each)} tasks failed: {', '.join(errors)}")


def run(settings: Settings) -> None:
    """Measure, or finish what was begun, or show what is complete; ends in a table. Raises UserError."""
    for name, reason in settings.left_out.items():
        say(f"{name} is left out: {reason}")
    carry_out(prepare(tuned(settings)))


def carry_out(plan: Plan) -> None:
    """All passes of a run, as far as they are missing, and its tables. Raises UserError."""
    settings = plan.settings
    with plan.folder.locked():
        process = Process(plan)
        measure(process)
        process.passed("texts")
        new = score(process)
        judge(process)
        teach(process)
        approximate(process)
        measure_energy(process)
        measure_batches(process)
        process.passed("run")
        if not (process.began or new):
            say(f"complete already, nothing to measure (fresh=true would measure again): {plan.folder.path}")
        summary = report(process)
    print_table(summary)
    if settings.tracker:
        settings.tracker.mirror(plan.folder.path, settings.results_dir, settings.experiment)


def tuned(settings: Settings) -> Settings:
    """The run of what is best on prompts apart, after trying what is to be tried there. Raises UserError."""
    tune = settings.tune
    if tune is None:
        return settings
    searches = plan_trials(tune, settings.variants, settings.seed)
    test, apart = split(replace(settings, tune=None), tune.prompts)
    test = replace(test, variants=tuned_variants(tune, settings.variants))
    first = prepare(test)
    Process(first)  # what is wrong with the run itself is said before hours of tuning
    plan = prepare(
        replace(
            changed(apart, repeats=1, energy=False, judge=None, noninferiority_margin=None, trace=False),
            name=f"{settings.name}-tuning",
            variants=trial_variants(searches),
        )
    )
    _check_apart(first, plan)
    with plan.folder.locked():
        process = Process(plan)
        measure(process)
        score(process)
        rows = with_grades(compacted(process), plan.folder.grades.rows())
        _check_code(plan, rows)  # times of other code would choose for this one
        choices = choose(searches, rows, tune.loss)
        processes = plan.folder.read_json("environment.json").get("processes", [])
    for choice in choices:
        say(str(choice))
    found = record(tune, settings.variants, choices, rows, processes, f"{plan.settings.name}/{plan.id}")
    return replace(test, variants=tuned_variants(tune, settings.variants, choices), tuning=published(found))


def _check_apart(test: Plan, tuning: Plan) -> None:
    """Raises UserError if a prompt is both tuned and tested on, under whatever name."""
    tested = {key for prompt in test.prompts for key in (prompt.id, prompt.turns)}
    for prompt in tuning.prompts:
        if tested & {prompt.id, prompt.turns}:
            raise UserError(f"prompt {prompt.id}, for tuning, has the id or text of a test prompt; lower tune.prompts")


def measure(process: Process) -> None:
    """Append the rows of all prompts that have none, or not all of theirs."""
    plan, folder = process.plan, process.plan.folder
    rows = [] if plan.settings.fresh else folder.samples.rows()
    done = {row["prompt_id"] for row in settled(rows, plan.cells)}
    prompts = [prompt for prompt in plan.prompts if prompt.id not in done]
    if not prompts:
        return
    _check_code(plan, rows)
    plan.settings.task.check()
    say(f"{len(prompts)} prompts, {len(plan.labels)} variants on {plan.placement}: {folder.path}")
    bench = process.bench
    process.begin()
    folder.trace.mend()  # nothing else has read it yet
    total = sum(map(len, plan.cells.values()))
    left = sum(len(plan.cells[prompt.id]) for prompt in prompts)
    with progress(total, total - left, burst=len(plan.labels)) as advance:
        for found in bench.rows(prompts):
            if found.trace:
                folder.trace.append(found.trace)  # first, so that a text that counts has its trace
            folder.samples.append(found.sample)
            advance(found.sample["variant"])


def score(process: Process) -> bool:
    """Let the task grade the texts that it has not graded yet; whether there were any.

    Grades that another grader began with are given anew, so that one grader has given all of them.
    """
    plan, folder, task = process.plan, process.plan.folder, process.plan.settings.task
    ours, records = grader(task), folder.grades.rows()
    rows = settled(folder.samples.rows(), plan.cells)
    known = {text_key(record): record["grader"] for record in records}
    others = [row for row in rows if known.get(text_key(row), ours) != ours]
    if all(text_key(row) in known for row in rows):
        if any(known[text_key(row)]["options"] != ours["options"] for row in others):
            say("graded with other options of the task before; python -m experiments.rescore grades again")
        return False
    task.check()
    todo = rows if others else [row for row in rows if text_key(row) not in known]
    if task.heavy:
        say(f"grading {len(todo)} texts")
    for found in graded(task, {prompt.id: prompt for prompt in plan.prompts}, todo):
        folder.grades.append(found)
        check()
    return True


def judge(process: Process) -> None:
    """Let the judge, if one is named, read the texts that it has not read yet."""
    plan, folder = process.plan, process.plan.folder
    if process.judge is None:
        return
    source, name = process.judge, stable_hash(asdict(process.judge.origin))
    read = {text_key(record) for record in folder.judge.rows() if record["judge"] == name}
    rows = [row for row in settled(folder.samples.rows(), plan.cells) if text_key(row) not in read]
    if not rows:
        return
    say(f"{len(rows)} texts for the judge {source.origin.folder or source.origin.id}")
    process.begin()
    with at_once():
        reader = load_judge(source, plan.blueprint.tokenizer, plan.placement.draft)
    for _, group in groupby(rows, plan.context):
        texts = list(group)
        with at_once():
            judged = reader.score(plan.context(texts[0]), [row["token_ids"] for row in texts])
        for row, verdict in zip(texts, judged, strict=True):
            key = {key: row[key] for key in TEXT}
            folder.judge.append(
                {**process.stamp, **key, "judge": name, "origin": redact(asdict(source.origin)), **asdict(verdict)}
            )


def teach(process: Process) -> None:
    """Let the target read what the task's own texts say, each token after the true ones before it."""
    plan, folder = process.plan, process.plan.folder
    known = {record["id"] for record in folder.teacher.rows()}
    texts = {prompt.id: plan.settings.task.reference(prompt) for prompt in plan.prompts if prompt.id not in known}
    unread = {name: text for name, text in texts.items() if text is not None}
    if not unread:
        return
    say(f"{len(unread)} texts for the target to read")
    target, encode = process.bench.pair.target, plan.prompting.ids
    process.begin()
    for name, text in unread.items():
        with at_once():
            forced = force(target, encode, name, text)
        folder.teacher.append({**process.stamp, "process_id": process.id, **asdict(forced)})


def measure_energy(process: Process) -> None:
    """Write blocks of texts again under the meter, as far as they are missing."""
    plan, folder = process.plan, process.plan.folder
    if process.meter is None:
        return
    records = alike(folder.energy.rows(), *_blocks(process))
    missing = missing_rounds(records, plan.labels, plan.settings.meter.blocks)
    if not missing:
        return
    rows = settled(folder.samples.rows(), plan.cells)
    _check_code(plan, [*rows, *records])
    timed = Timed(rows)
    minutes = timed.expected_seconds(plan.labels, plan.settings.meter, missing) / 60
    blocks = f"{len(missing)} rounds of blocks of {plan.settings.meter.seconds:g} s or more for each variant"
    say(f"energy: {blocks}, about {minutes:.{0 if minutes >= 10 else 1}f} min")
    bench = process.bench
    process.begin()
    variants = {variant.label: variant for variant in plan.settings.variants}
    contexts = {(row["variant"], row["prompt_id"], row["turn"], row["repeat"]): plan.context(row) for row in rows}
    total = plan.settings.meter.blocks * len(plan.labels)

    def keep(record: Row) -> None:
        lap = process.watch.lap()
        record = {**redact(record), "isolation": lap}  # reasons are other libraries' words
        if plan.settings.strict and (found := disturbances([lap], "blocks")):
            record = without_joules(record, found[0])  # else the round would be settled, and never measured again
        folder.energy.append(record)
        bench.insist(lap)
        process.watch.start()

    process.watch.start()
    with progress(total, total - len(missing) * len(plan.labels)) as advance:
        EnergyPass(
            process.signature,
            plan.labels,
            timed,
            lambda label, prompt, turn, repeat: bench.write(
                variants[label], prompt, turn, repeat, contexts[label, prompt, turn, repeat]
            ),
            process.meter,
            plan.settings.meter,
            plan.settings.seed,
            keep,
            advance,
        ).run(records)


def compacted(process: Process) -> list[Row]:
    """The rows that count; superseded ones are dropped."""
    rows = process.plan.folder.samples.rows()
    kept = settled(rows, process.plan.cells)
    if len(kept) < len(rows):
        process.plan.folder.keep(kept)
    return kept


def report(process: Process) -> dict[str, Any]:
    """Write and return the summary; what was asked stands beside it."""
    plan, folder, settings = process.plan, process.plan.folder, process.plan.settings
    rows = compacted(process)
    if process.judge:
        rows = with_verdicts(rows, folder.judge.rows(), stable_hash(asdict(process.judge.origin)))
    before = folder.read_json("summary.json")
    asked = asked_of(process)
    tuning = settings.tuning or before.get("tuning")  # asked for plainly, but tuned before
    facts = Facts(
        run_id=plan.id,
        model=settings.model,
        task_name=settings.task_name,
        labels=plan.labels,
        groups={variant.label: variant.group for variant in settings.variants},
        margin=settings.noninferiority_margin,
        no_energy=process.no_energy or "not measured",
        blocks=_blocks(process),
        others={
            "weights": plan.weights,
            "parameters": plan.blueprint.parameters,
            "experiment": settings.experiment,
            "figure": settings.figure,
            "approximation": asdict(settings.approximation) if settings.approximation else before.get("approximation"),
            "batch_size": asdict(asked) if asked else before.get("batch_size"),
            "left_out": settings.left_out,
            "tuning": tuning,
            "chat": plan.prompting.chat,
            "replay": dict(plan.replay) if plan.replay else None,
            "prompts_too_long": plan.too_long,
            "prompts_cut": sum(map(plan.prompting.cuts, plan.prompts)),
        },
    )
    folder.prompts.rewrite(
        [
            describe_prompt(prompt, plan.lengths(prompt), plan.prompting.chat, settings.publish)
            for prompt in plan.prompts
        ]
    )
    return write_summary(folder, facts, settings.task, rows, folder.grades.rows())


def _blocks(process: Process) -> tuple[float, Kind | None]:
    """Which blocks count: those measured as the settings ask for; without a meter, of what most were measured of."""
    meter, settings = process.meter, process.plan.settings.meter
    return (settings.seconds, source_of(meter)) if meter else (0.0, None)


def _check_code(plan: Plan, rows: Iterable[Row]) -> None:
    check_code(rows, plan.folder.path, plan.settings.mixed)

"""The plan of a replay: a run's plan whose prompts, decoders and limits are those of a trace.

So all passes of a run (times, energy, batches), resuming and tables work as ever. Knows plans and traces; refuses to
know how reads are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.identity import run_id
from experiments.journal import Row
from experiments.plan import Plan
from experiments.prompting import Prompting
from experiments.records import RunFolder, stable_hash
from experiments.replay.decoder import Replayed, Step
from experiments.replay.texts import Trace, TracedText
from experiments.settings import Settings
from experiments.stand_in import drawn
from experiments.stopping import at_once
from experiments.task import Prompt, Task, Turn
from experiments.threads import set_threads
from experiments.variants import Variant
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.loading import Blueprint, inspect_pair
from mtad.placement import find_placement

Key = tuple[str, str, int, int]  # (variant, prompt id, turn, repeat)


@dataclass(frozen=True)
class ReplayTask(Task):
    """The task of a trace by its name alone: texts that are replayed are not graded."""

    name: str = ""
    max_new_tokens: int = 1

    def prompts(self) -> Sequence[Prompt]:
        """None: a plan is made of the texts of the trace."""
        return ()


@dataclass(frozen=True)
class ReplayedVariant(Variant):
    """A variant of the trace; its options are recorded, for no decoder is built of them."""

    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.recorded)


@dataclass(frozen=True)
class ReplayPlan(Plan):
    """A plan whose texts are those of a trace.

    Attributes:
        texts: as recorded.
        source: what `replay` says.
        steps: of each text, in token ids of the pair, by the number of tokens written before.
    """

    texts: Mapping[Key, TracedText]
    source: Mapping[str, Any]
    steps: Mapping[Key, Mapping[int, Step]]

    @property
    def replay(self) -> Mapping[str, Any]:
        return self.source

    def writer(
        self, variant: Variant, prompt_id: str, turn: int, repeat: int, max_new_tokens: int
    ) -> tuple[Replayed, Limits]:
        """The recorded text, or its beginning: it ends where it is cut, whatever its tokens are."""
        key = variant.label, prompt_id, turn, repeat
        text, length = self.texts[key], min(max_new_tokens, self.texts[key].length)
        return Replayed(self.steps[key], length, text.joint, text.drafts, text.lossless), Limits(length)

    def told(self, row: Row) -> Row:
        text = self.texts[row["variant"], row["prompt_id"], row["turn"], row["repeat"]]
        return {"replay": dict(self.source), "finish": text.finish}

    def asked(self, prompt: Prompt, turn: int, answers: Sequence[str], label: str = "", repeat: int = 0) -> list[int]:
        """As many ids as the recorded prompt had."""
        return _any_ids(self.texts[label, prompt.id, turn, repeat].prompt_tokens, self.blueprint.vocabulary)

    def context(self, row: Row) -> list[int]:
        return _any_ids(row["prompt_tokens"], self.blueprint.vocabulary)


@at_once()
def planned(settings: Settings, trace: Trace) -> ReplayPlan:
    """Find the models, and check that they can read what the trace read. Raises UserError."""
    placement = find_placement(settings.device, settings.device_map, settings.draft_device, settings.tp_plan)
    set_threads(settings.threads)  # before anything is computed
    blueprint = inspect_pair(settings.target, settings.draft, settings.dtype, placement)
    prompts, too_long = _taken(settings, trace, blueprint.max_positions)
    taken = {prompt.id for prompt in prompts}
    texts = {_key(text): text for text in trace.texts if text.prompt_id in taken}
    settings = _settings(settings, trace, list(texts.values()))
    lengths: dict[tuple[str, int], int] = {}
    for (_, prompt, turn, _), text in texts.items():
        lengths[prompt, turn] = max(lengths.get((prompt, turn), 0), text.prompt_tokens)
    encoded = {place: _any_ids(length, blueprint.vocabulary) for place, length in lengths.items()}
    how = Prompting(blueprint.tokenizer, False, False, None, blueprint.max_positions)
    name = stable_hash([trace.sha256, run_id(settings, blueprint, prompts, how, encoded)])
    return ReplayPlan(
        settings,
        blueprint,
        prompts,
        too_long,
        how,
        encoded,
        name,
        RunFolder(settings.results_dir / settings.name / name),
        texts=texts,
        source=_source(settings, blueprint, trace),
        steps={key: _steps(text, blueprint.vocabulary) for key, text in texts.items()},
    )


def _key(text: TracedText) -> Key:
    return text.label, text.prompt_id, text.turn, text.repeat


def _any_ids(count: int, vocabulary: int) -> list[int]:
    """Some token ids: a trace has none of its prompts, and no forward costs more for one than for another."""
    return [i % vocabulary for i in range(count)]


def _taken(settings: Settings, trace: Trace, positions: int) -> tuple[list[Prompt], list[str]]:
    """The prompts of the trace whose texts the pair can read, and the names of the others. Raises UserError."""
    by_prompt: dict[str, list[TracedText]] = {}
    for text in trace.texts:
        by_prompt.setdefault(text.prompt_id, []).append(text)
    prompts, too_long = list[Prompt](), list[str]()
    for name, texts in by_prompt.items():
        if len(prompts) == settings.limit:
            break
        if (most := max(text.positions for text in texts)) > positions:
            if not settings.skip_long:
                raise UserError(
                    f"prompt {name} of the trace goes up to position {most}, and the pair has {positions}; "
                    f"skip_long=true leaves such prompts out"
                )
            too_long.append(name)
            continue
        turns = 1 + max(text.turn for text in texts)
        prompts.append(Prompt(name, (Turn("", reply=""),) * turns, group=texts[0].group))
    if not prompts:
        raise UserError(f"the trace has no prompt whose texts fit into the pair's {positions} positions")
    return prompts, too_long


def _settings(settings: Settings, trace: Trace, texts: Sequence[TracedText]) -> Settings:
    """The settings, with all that the trace decides."""
    longest = max(text.length for text in texts)
    first = {text.label: text for text in reversed(texts)}
    variants = tuple(
        ReplayedVariant(
            label,
            first[label].decoder,
            f"{Replayed.__module__}.{Replayed.__qualname__}",
            Replayed({}, 0, first[label].joint, first[label].drafts, first[label].lossless),
            first[label].sampling,
            first[label].variant_group,
            recorded=first[label].options,
        )
        for label in trace.labels
    )
    return replace(
        settings,
        task_name=trace.task,
        task=ReplayTask(trace.task, longest),
        variants=variants,
        left_out=dict(trace.left_out),
        repeats=1 + max(text.repeat for text in texts),
        seed=trace.seed,
        max_new_tokens=longest,
    )


def _source(settings: Settings, blueprint: Blueprint, trace: Trace) -> dict[str, Any]:
    """What rows, summary and tables say of the replay."""
    weights = {role: {"random": origin.random} for role, origin in blueprint.origins.items()}
    return {
        "cost": drawn(weights) or settings.model,
        "decisions": f"trace of {trace.pair}, {trace.task}",
        "run_id": trace.run_id,
        "sha256": trace.sha256,
    }


def _steps(text: TracedText, vocabulary: int) -> dict[int, Step]:
    """The steps by the number of tokens written before, in ids that the pair has. Raises UserError."""
    ids, number = text.ids, dict[int, int]()
    if max(ids) >= vocabulary:
        if len(ids) > vocabulary:
            raise UserError(f"a text of prompt {text.prompt_id} has more different tokens than the pair, {vocabulary}")
        number = {token: rank for rank, token in enumerate(sorted(ids))}
    found, written = dict[int, Step](), 0
    for step in text.steps:
        found[written] = _renumbered(step, number) if number else step
        written += sum(len(one.tokens) for one in step.rounds)
    return found


def _renumbered(step: Step, number: Mapping[int, int]) -> Step:
    """Equal ids stay equal, and different ones different: the same nodes are shared, the same paths kept."""

    def new(tokens: Sequence[int]) -> tuple[int, ...]:
        return tuple(number[token] for token in tokens)

    reads = tuple(one._replace(tokens=new(one.tokens)) for one in step.reads)
    return Step(reads, tuple(replace(one, tokens=new(one.tokens)) for one in step.rounds))

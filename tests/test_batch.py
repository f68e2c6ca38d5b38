"""Batches: texts share forwards, each with its own length and tree, and write what they would write alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import count

import numpy as np
import pytest
import torch

from baselines.autoregressive import Autoregressive
from experiments.batch_equal import first_difference
from mtad.batch import Batch, Start, write_batch
from mtad.decoder import Decoder, RoundDecoder
from mtad.ending import Limits
from mtad.feeds import Feed, Growing, Model, Together, span_of
from mtad.generate import Output, writing
from mtad.graphs import Graphs
from mtad.law import Sampling
from mtad.luck import Luck
from mtad.margin import Shaken, decided, varies
from mtad.session import Session
from tests.fakes import TableModel, llama, noisy
from tests.helpers import DECODERS, PURE, from_yaml, spell, write

PROMPTS = ([1, 2, 3, 4], [9], [5, 6, 7, 8, 9, 10, 11], [3, 3], [12, 4, 1])


@cache
def llamas() -> tuple[Model, Model]:
    """A pair with three rows, its forwards recorded once for all tests."""
    target = llama(rows=3)
    return target, noisy(target, lambda seed: llama(seed, rows=3))


def starts(
    decoder: Decoder, limits: Sequence[int], eos: Sequence[int] = (), sampling: Sampling = PURE
) -> list[Start[Output]]:
    """A text for each of PROMPTS, of these lengths at most."""
    return [
        partial(
            lambda target, draft, prompt, limit: writing(
                decoder, target, draft, prompt, Limits(limit, frozenset(eos)), sampling, Luck(0, str(prompt)), spell
            ),
            prompt=prompt,
            limit=limit,
        )
        for prompt, limit in zip(PROMPTS, limits, strict=False)
    ]


def together(queue: Sequence[Start[Output]], target: Model, draft: Model, rows: int) -> Batch[Output]:
    return write_batch(queue, [(Session(target, row), Session(draft, row)) for row in range(rows)])


@pytest.mark.parametrize("name", DECODERS)
def test_texts_in_a_batch_are_those_written_alone_unless_less_than_the_tolerance_decides(name: str) -> None:
    (target, draft), decoder = llamas(), from_yaml(name)
    limits, sampling = (9, 4, 12, 1, 7), Sampling()
    outputs = together(starts(decoder, limits, [7], sampling), target, draft, 3).outputs
    for prompt, limit, output in zip(PROMPTS, limits, outputs, strict=True):
        alone = write(decoder, target, draft, prompt, limit, [7], sampling=sampling, name=str(prompt))
        if output.tokens != alone.tokens:
            found = first_difference([step.tokens for step in alone.rounds], [step.tokens for step in output.rounds])
            assert found is not None
            luck, end = Luck(0, str(prompt)), Limits(limit, frozenset([7]))
            first = 1 + (found.offset if isinstance(decoder, RoundDecoder) else found.position)
            decide = decided(decoder, prompt, found.written, end, sampling, luck, spell, first)
            assert varies(decide, target, draft)


@pytest.mark.parametrize("name", ["mtad", "speculative", "specinfer"])
def test_under_laws_that_no_shape_changes_every_text_is_the_same(name: str) -> None:
    laws: list[list[float]] = [[1, 2, 3, 4, 2] * 3, [3, 1, 4, 1, 5] * 3, [2, 7, 1, 8, 2] * 3]
    even: list[float] = [2, 1, 1] * 5
    target, draft = TableModel(laws * 5, rows=4), TableModel([even] * 15, rows=4)
    limits = (20, 3, 11, 30, 8)
    for rows in (1, 2, 4):
        outputs = together(starts(from_yaml(name), limits, [0]), target, draft, rows).outputs
        for prompt, limit, output in zip(PROMPTS, limits, outputs, strict=True):
            alone = write(from_yaml(name), target, draft, prompt, limit, [0], name=str(prompt))
            assert (output.tokens, output.finish) == (alone.tokens, alone.finish)
            assert output.target.forwards == alone.target.forwards


def test_a_text_that_ends_leaves_its_row_to_the_next_and_all_go_on_in_one_forward() -> None:
    table = TableModel([[1, 2], [2, 1]], rows=2)
    prompts = [[0]] * 3
    queue = [
        partial(
            lambda t, d, prompt, limit: writing(Autoregressive(), t, d, prompt, Limits(limit), PURE, LUCK, spell),
            prompt=prompt,
            limit=limit,
        )
        for prompt, limit in zip(prompts, (2, 6, 3), strict=True)
    ]
    ticks = count()
    batch = write_batch(queue, [(Session(table, row), Session(table, row)) for row in range(2)], lambda: next(ticks))
    assert table.batches == [2, 2, 2, 2, 2, 1]
    assert (batch.target_forwards, batch.draft_forwards) == (6, 0)
    assert [len(output.tokens) for output in batch.outputs] == [2, 6, 3]
    first, second, third = batch.stays
    assert first.entered < second.entered < first.ended < third.entered < third.ended < second.ended < batch.seconds
    assert sum(output.target.forwards for output in batch.outputs) == 11  # each counts those that it took part in


LUCK = Luck(0, "prompt")


class Watched(TableModel):
    """Knows which rows each forward of a round has fed."""

    def __init__(self, rows: int) -> None:
        super().__init__([[3, 1, 2], [2, 3, 1], [1, 2, 3]], rows)
        self.fed: list[list[int]] = []

    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        self.fed.append([feed.row for feed in feeds])
        return super().forward(feeds)


def test_when_the_queue_is_empty_texts_of_the_last_rows_move_to_free_ones_and_come_out_the_same() -> None:
    def queue() -> list[Start[Output]]:
        return [
            partial(
                lambda t, d, limit: writing(Autoregressive(), t, d, [limit % 3], Limits(limit), PURE, LUCK, spell),
                limit=limit,
            )
            for limit in (2, 3, 12, 9)
        ]

    table = Watched(4)
    rows = [(Session(table, row), Session(table, row)) for row in range(4)]
    moved = write_batch(queue(), rows)
    assert table.fed == [[0, 1, 2, 3]] * 2 + [[0, 1, 2]] + [[0, 1]] * 6 + [[0]] * 3
    assert [output.tokens for output in moved.outputs] == [
        output.tokens for output in write_batch(queue(), rows[:1]).outputs
    ]
    assert [(target.row, draft.row) for target, draft in rows] == [(row, row) for row in range(4)]


def test_on_a_gpu_forwards_of_few_different_spans_of_rows_are_recorded() -> None:
    spans = {Graphs.span(None, range(first, last + 1), 12) for last in range(12) for first in range(last + 1)}  # type: ignore[arg-type]
    assert spans == {range(1), range(2), range(4), range(8), range(12)}
    feeds = [Feed(row, 3, [7], [3], 3, np.ones((1, 1), dtype=bool), 1) for row in (2, 5)]
    wide = Together.of(feeds, 1, 4, 16, range(8))
    assert (wide.first, wide.tokens[:, 0].tolist()) == (0, [0, 0, 7, 0, 0, 7, 0, 0])
    assert wide.places[:, 0].tolist() == [15, 31, 35, 63, 79, 83, 111, 127]  # those that idle write their last place
    assert span_of(feeds) == range(2, 6)


def test_the_draft_is_asked_until_no_text_waits_for_it_and_the_target_then_once_for_all() -> None:
    laws: list[list[float]] = [[3, 1, 1, 1], [1, 3, 1, 1], [1, 1, 3, 1], [1, 1, 1, 3]]
    target, draft = TableModel(laws, rows=2), TableModel(laws, rows=2)
    ragged = [from_yaml("speculative", gamma=gamma) for gamma in (2, 5)]
    queue = [
        partial(
            lambda t, d, decoder: writing(decoder, t, d, [0], Limits(24), PURE, LUCK, spell),
            decoder=decoder,
        )
        for decoder in ragged
    ]
    batch = together(queue, target, draft, 2)
    alone = [write(decoder, target, draft, limit=24) for decoder in ragged]
    assert [output.tokens for output in batch.outputs] == [output.tokens for output in alone]
    assert batch.target_forwards == max(len(output.rounds) for output in alone)


def test_the_queue_is_asked_for_a_text_only_when_a_row_is_free() -> None:
    table, asked = TableModel([[1, 2], [2, 1]], rows=2), list[int]()

    def queue() -> Iterator[Start[Output]]:
        for number in range(3):
            asked.append(len(table.batches))
            yield partial(
                lambda t, d, limit: writing(Autoregressive(), t, d, [0], Limits(limit), PURE, LUCK, spell),
                limit=4 + number,
            )

    write_batch(queue(), [(Session(table, row), Session(table, row)) for row in range(2)])
    assert asked == [0, 0, 4]
    with pytest.raises(ValueError, match="row"):
        write_batch(queue(), [])


def test_a_choice_between_equals_varies_and_a_clear_one_does_not() -> None:
    def chosen(p: float) -> bool:
        table = TableModel([[p, 1 - p]] * 2)
        decide = decided(Autoregressive(), [0], [1, 0], Limits(9), Sampling(1.0, 0, 1.0, True), LUCK, spell, 1)
        return varies(decide, table, table)

    assert chosen(0.5) and chosen(0.5002) and not chosen(0.51)


def test_a_shaken_model_is_read_level_by_level_so_that_its_draft_is_shaken_too() -> None:
    class Grower(TableModel):
        def grows(self) -> bool:
            return True

        def grow(self, *_: object) -> None:
            raise AssertionError("drafts that grow on the device are not shaken")

    even, clear, target = Grower([[1, 1, 1]] * 3), Grower([[6, 3, 1]] * 3), TableModel([[6, 3, 1]] * 3)
    assert isinstance(even, Growing) and not isinstance(Shaken(even, 0), Growing)
    decoder = from_yaml("mtad", gamma=2, width=2)
    decide = decided(decoder, [0], [], Limits(9), Sampling(1.0, 3, 1.0, True), LUCK, spell, 9)
    assert varies(decide, target, even) and not varies(decide, target, clear)


def test_where_two_texts_part_is_told_by_their_rounds() -> None:
    found = first_difference([(1, 2), (3, 4), (5,)], [(1, 2), (3, 6, 7)])
    assert found is not None and (found.written, found.offset, found.position) == ((1, 2), 1, 3)
    short = first_difference([(1,), (2, 3)], [(1,), (2,), (3, 4)])  # the same tokens, but another number is accepted
    assert short is not None and (short.written, short.offset, short.position) == ((1,), 1, 3)
    assert first_difference([(1,), (2, 3)], [(1, 2), (3,)]) is None  # equal texts

"""`generate`: ends, limits, counters, batches; and what every decoder owes, whatever its rule."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.autoregressive import Autoregressive
from baselines.speculative import Speculative
from mtad.decoder import Round, Rounds, Source, Text
from mtad.ending import Ending, Limits
from mtad.errors import UserError
from mtad.generate import drive, writing
from mtad.law import Sampling
from mtad.luck import Luck
from mtad.mjgd import Mjgd
from mtad.mtad import Mmtad, Mtad
from mtad.session import Reader, Session
from mtad.tree import Tree
from tests.fakes import Recomputed, StubModel, TableModel, llama, noisy, opt
from tests.helpers import DECODERS, PURE, from_yaml, spell, write

TABLE = TableModel([[1, 2, 3], [3, 1, 1], [1, 5, 1]], rows=2)


@dataclass(frozen=True)
class Script:
    """Emits given blocks, whatever the models say."""

    blocks: tuple[tuple[int, ...], ...]
    joint = False
    drafts = False
    lossless = False

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        yield target.read(Tree())
        written = text.start - 1
        for block in self.blocks:
            if written < len(block):
                break
            written -= len(block)
        rest = block[written:]
        return Round(rest, (Source.DRAFT,) * (len(rest) - 1) + (Source.TARGET,), len(rest) - 1, len(rest) - 1)


def scripted(*blocks: str, **limits: object):  # type: ignore[no-untyped-def]
    tokens = tuple(tuple(ord(letter) - ord("a") for letter in block) for block in blocks)
    return write(Script(tokens), TABLE_26, TABLE_26, prompt=(25,), **limits)  # type: ignore[arg-type]


TABLE_26 = TableModel([[1] * 26] * 26)


@pytest.mark.parametrize(("block", "kept"), [("zbc", "z"), ("bzc", "bz"), ("bcz", "bcz")])
def test_an_end_token_first_middle_or_last_in_a_block_ends_the_text_there(block: str, kept: str) -> None:
    output = scripted("abc", block, eos=[25], limit=50)
    assert spell(output.tokens) == "abc" + kept and output.text == "abc" + kept[:-1] and output.finish == "eos"


def test_any_of_several_end_tokens_ends_the_text() -> None:
    assert [spell(scripted("abcd", eos=eos, limit=50).tokens) for eos in ([2, 1], [3, 20], [0])] == ["ab", "abcd", "a"]


@pytest.mark.parametrize(
    ("stop", "tokens", "text"),
    [("de", "abcde", "abc"), ("cd", "abcd", "ab"), ("f", "abcdef", "abcde"), ("ab", "ab", ""), ("a", "a", "")],
)
def test_a_stop_string_within_or_across_blocks_ends_the_text_before_it(stop: str, tokens: str, text: str) -> None:
    output = scripted("abc", "def", "ghi", stop=[stop], limit=50)
    assert (spell(output.tokens), output.text, output.finish) == (tokens, text, "stop")


def test_the_earliest_of_end_token_stop_string_and_limit_counts() -> None:
    blocks = ("abc", "def")
    assert scripted(*blocks, stop=["e"], eos=[3], limit=50).finish == "eos"
    assert scripted(*blocks, stop=["d"], eos=[4], limit=50).finish == "stop"
    assert scripted(*blocks, stop=["f"], eos=[5], limit=5).finish == "limit"
    assert scripted(*blocks, stop=["ef"], limit=6).finish == "stop"


BYTES = [b"a", "é".encode()[:1], "é".encode()[1:], b"\n", b"", b" b"]


def in_bytes(tokens: Sequence[int]) -> str:
    """Tokens that are pieces of characters, whole ones, or nothing."""
    return b"".join(BYTES[token] for token in tokens).decode(errors="replace")


@settings(max_examples=200, deadline=None)
@given(
    tokens=st.lists(st.integers(0, len(BYTES) - 1), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 11)),
    stop=st.sampled_from(["é", "\n", "a b", "éa", "\n\n"]),
)
def test_a_text_stops_at_the_same_token_however_it_is_cut_into_blocks(
    tokens: list[int], cuts: set[int], stop: str
) -> None:
    def emitted(edges: list[int]) -> list[int]:
        ending, output = Ending(Limits(20, stop=(stop,)), in_bytes), list[int]()
        for start, end in itertools.pairwise([0, *edges, len(tokens)]):
            if start < end:
                length, finish = ending.cut(output, tokens[start:end])
                output += tokens[start : start + length]
                if finish:
                    break
        return output

    in_one = emitted([])
    assert emitted(sorted(cut for cut in cuts if cut < len(tokens))) == in_one == emitted(list(range(1, len(tokens))))


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_the_limit_inside_a_block_cuts_tokens_and_counts(limit: int) -> None:
    output = scripted("abc", "def", limit=limit)
    assert len(output.tokens) == limit and output.finish == "limit"
    assert sum(len(step.tokens) for step in output.rounds) == limit
    assert sum(step.accepted for step in output.rounds) <= limit
    assert output.target.forwards == (1 if limit <= 3 else 2)


def test_ignore_eos_writes_up_to_the_limit() -> None:
    limits = Limits(9, frozenset({0, 1, 2}), ignore_eos=True)
    text = writing(Speculative(), Session(TABLE, 0), Session(TABLE, 1), [0], limits, PURE, Luck(0, "p"), spell)
    assert len(drive([text])[0].tokens) == 9


def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"prompt \(510 tokens\).*512"):
        write(Autoregressive(), llama(), llama(), prompt=[1] * 510, limit=3)


def test_the_shorter_of_both_models_limits_the_pair() -> None:
    draft = llama()
    draft.max_positions = 20
    with pytest.raises(UserError, match="exceed the 20 positions"):
        write(Speculative(), llama(), draft, prompt=[1] * 10, limit=11)
    with pytest.raises(UserError, match="exceed the 20 positions"):  # the same limit for a baseline without a draft
        write(Autoregressive(), llama(), draft, prompt=[1] * 10, limit=11)
    assert len(write(Autoregressive(), llama(), draft, prompt=[1] * 10, limit=10).tokens) == 10


def test_texts_up_to_the_last_position_are_possible() -> None:
    target = opt()
    target.max_positions = draft_positions = 512
    for name in DECODERS:
        output = write(
            from_yaml(name), target, opt(1), prompt=[1] * (draft_positions - 6), limit=6, sampling=Sampling()
        )
        assert len(output.tokens) == 6


# -- stub targets that accept never, always, exactly two -----------------------------------------------------------

A, B = 0, 1


def cycle(length: int):  # type: ignore[no-untyped-def]
    """A draft that always says a; a target that says a, but b at every `length`-th token after the prompt."""
    draft = StubModel(2, lambda context: [1.0, 0.0])
    target = StubModel(2, lambda context: [0.0, 1.0] if len(context) % length == 0 else [1.0, 0.0])
    return target, draft


CHAIN_RULES = [Speculative(gamma=4), Mtad(gamma=4, width=2), Mmtad(gamma=4, width=2)]


@pytest.mark.parametrize("decoder", CHAIN_RULES)
def test_a_target_that_never_agrees_yields_one_token_a_forward(decoder) -> None:  # type: ignore[no-untyped-def]
    target, draft = StubModel(2, lambda context: [0.0, 1.0]), StubModel(2, lambda context: [1.0, 0.0])
    output = write(decoder, target, draft, limit=12)
    assert set(output.tokens) == {B} and output.target.forwards == 12
    assert sum(step.accepted for step in output.rounds) == 0


@pytest.mark.parametrize("decoder", CHAIN_RULES)
def test_a_target_that_always_agrees_yields_gamma_plus_one_tokens_a_forward(decoder) -> None:  # type: ignore[no-untyped-def]
    model = StubModel(2, lambda context: [1.0, 0.0])
    output = write(decoder, model, StubModel(2, lambda context: [1.0, 0.0]), limit=20)
    assert set(output.tokens) == {A} and output.target.forwards == 4
    assert all(step.accepted == step.drafted == 4 for step in output.rounds)


@pytest.mark.parametrize("decoder", CHAIN_RULES)
def test_a_target_that_agrees_exactly_twice_yields_three_tokens_a_forward(decoder) -> None:  # type: ignore[no-untyped-def]
    target, draft = cycle(3)
    output = write(decoder, target, draft, limit=18)
    assert output.tokens == (A, A, B) * 6 and output.target.forwards == 6
    assert all(step.accepted == 2 for step in output.rounds)


# -- every decoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("name", DECODERS)
def test_cached_equals_uncached(name: str, make) -> None:  # type: ignore[no-untyped-def]
    target = make(0)
    draft = noisy(target, make)
    run = {"prompt": [5, 9, 2], "limit": 14, "eos": [7], "sampling": Sampling()}
    cached = write(from_yaml(name), target, draft, **run)
    assert write(from_yaml(name), Recomputed(target), Recomputed(draft), **run).tokens == cached.tokens


@pytest.mark.parametrize("name", DECODERS)
def test_two_prompts_advance_in_one_forward_and_write_what_they_write_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, limits = llama(rows=2), Limits(12, frozenset({7}))
    draft = noisy(target, lambda seed: llama(seed, rows=2))

    def text(row: int, prompt: list[int]):  # type: ignore[no-untyped-def]
        sessions = Session(target, row), Session(draft, row)
        return writing(from_yaml(name), *sessions, prompt, limits, Sampling(), Luck(0, str(prompt)), spell)

    prompts, batches = [[1, 2, 3, 4], [9]], list[int]()
    alone = [drive([text(0, prompt)])[0] for prompt in prompts]
    forward = target.forward
    monkeypatch.setattr(target, "forward", lambda feeds: [batches.append(len(feeds)), forward(feeds)][1])
    together = drive([text(row, prompt) for row, prompt in enumerate(prompts)])
    assert [output.tokens for output in together] == [output.tokens for output in alone]
    assert [output.target.forwards for output in together] == [output.target.forwards for output in alone]
    prefills = 1  # of the longer prompt; the other one's only token is read with its first tree
    # Texts whose rounds differ in shape may miss each other now and then, but never always.
    assert len(batches) < prefills + sum(output.target.forwards for output in alone) and 2 in batches


def test_together_means_one_forward() -> None:
    table = TableModel([[1, 2], [2, 1]], rows=2)
    limits = Limits(5)
    texts = [
        writing(Autoregressive(), Session(table, row), Session(table, row), [0], limits, PURE, Luck(0, str(row)), spell)
        for row in range(2)
    ]
    drive(texts)
    assert table.batches == [2] * 5


@pytest.mark.parametrize("name", DECODERS)
def test_the_same_address_gives_the_same_text_and_another_seed_another(name: str) -> None:
    target = llama()
    draft = noisy(target, llama)
    run = {"limit": 24, "sampling": Sampling()}
    texts = [write(from_yaml(name), target, draft, seed=seed, **run).tokens for seed in (0, 0, 1, 2)]
    assert texts[0] == texts[1]
    if name not in ("mjgd", "beam_search"):
        assert len(set(texts)) > 1


@pytest.mark.parametrize("name", DECODERS)
def test_rounds_add_up_to_the_output(name: str) -> None:
    target = llama()
    draft = noisy(target, llama)
    output = write(from_yaml(name), target, draft, limit=17, eos=[7], sampling=Sampling())
    assert [token for step in output.rounds for token in step.tokens] == list(output.tokens)
    assert all(len(step.sources) == len(step.tokens) for step in output.rounds)
    assert all(step.sources[: step.accepted] == (Source.DRAFT,) * step.accepted for step in output.rounds)
    assert output.target.forwards >= 1 and (output.draft.forwards > 0) == from_yaml(name).drafts


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Speculative(gamma=0), "gamma must be a number >= 1"),
        (lambda: Mtad(gamma=2.5), "gamma must be a whole number"),  # type: ignore[arg-type]
        (lambda: Mtad(tau=-0.1), "tau must be a number >= 0"),
        (lambda: Mtad(tau=float("nan")), "tau must be"),
        (lambda: Mtad(width=0), "width must be"),
        (lambda: Mtad(draft_rule="beam"), "draft_rule must be one of beam_sample, beam_search"),  # type: ignore[arg-type]
        (lambda: Mmtad(reference="min"), "reference must be one of max, own, final"),  # type: ignore[arg-type]
        (lambda: Mjgd(law="true"), "law must be one of raw, warped"),  # type: ignore[arg-type]
        (lambda: Mjgd(budget=0), "budget must be"),
        (lambda: Limits(0), "max_new_tokens must be >= 1"),
        (lambda: Limits(5, stop=("",)), "stop string"),
    ],
)
def test_illegal_options_are_named(make, line: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=line):
        make()

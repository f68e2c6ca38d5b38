"""Word problems with one to three visible steps and a final-answer line."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from experiments.corpus.document import Document, Segment

_WORDS = {
    "names": "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor",
    "things": "apples books coins cards marbles pencils stamps shells stickers eggs cookies flowers balls keys",
    "boxes": "boxes bags jars baskets crates shelves",
    "places": "market shop school park garden kitchen",
    "goods": "pen book cup hat toy bag lamp plate",
    "vehicles": "car bike train boat bus",
}
NAMES, THINGS, BOXES, PLACES, GOODS, VEHICLES = (words.split() for words in _WORDS.values())
MARKER = "####"
HELD_OUT_SHARE = 20  # one number combination in so many is never trained on


@dataclass(frozen=True)
class Problem:
    """A question, the worked steps and the final number; ``key`` is its kind with the numbers it uses."""

    question: str
    steps: tuple[str, ...]
    result: int
    key: str

    @property
    def prompt(self) -> str:
        """What stands before the answer."""
        return f"Question: {self.question}\nAnswer:"

    @property
    def answer(self) -> str:
        """The steps and the line that marks the final answer."""
        return f" {' '.join(self.steps)}\n{MARKER} {self.result}\n\n"

    @property
    def held_out(self) -> bool:
        """Whether the problem is on the held-out side of the split by number combination."""
        return zlib.crc32(self.key.encode()) % HELD_OUT_SHARE == 0


def _step(rng: random.Random, left: int, sign: str, right: int, unit: str) -> tuple[str, int]:
    """One worked step in one of several wordings, and its value."""
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}[sign]
    if sign in "+*" and rng.random() < 0.2:
        left, right = right, left
    equation = f"{left} {sign} {right} = {value}"
    lead = rng.choice(("", "", "So ", "Then ", "We get ", "That makes "))
    return f"{lead}{equation}{rng.choice(('', f' {unit}', f' {unit}'))}.", value


def _chain(rng: random.Random) -> Problem:
    """Somebody's things, changed one to three times."""
    name, things, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(PLACES)
    have = rng.randint(3, 60)
    text = [f"{name} has {have} {things}."]
    steps: list[str] = []
    key = f"chain {have}"
    for _ in range(rng.choice((1, 2, 2, 3))):
        number, sign = rng.randint(2, 30), rng.choice("++--*/")
        if (sign == "-" and number >= have) or (sign == "*" and have > 30):
            sign = "+"
        if sign == "/":
            divisors = [k for k in range(2, 10) if have % k == 0]
            sign = "/" if divisors and have > 3 else "+"
            number = rng.choice(divisors) if sign == "/" else number
        number = rng.randint(2, 4) if sign == "*" else number
        text.append(_change(rng, name, things, place, sign, number))
        step, have = _step(rng, have, sign, number, things)
        steps.append(step)
        key += f" {sign}{number}"
    text.append(rng.choice((f"How many {things} does {name} have now?", f"How many {things} are left with {name}?")))
    return Problem(" ".join(text), tuple(steps), have, key)


def _change(rng: random.Random, name: str, things: str, place: str, sign: str, number: int) -> str:
    """A sentence that changes how many things somebody has."""
    friend = rng.choice([other for other in NAMES if other != name])
    sentences = {
        "+": (
            f"{name} buys {number} more {things} at the {place}.",
            f"{friend} gives {name} {number} more.",
            f"Then {name} finds {number} {things} in the {place}.",
        ),
        "-": (
            f"{name} gives {number} {things} to {friend}.",
            f"Then {name} loses {number} of them in the {place}.",
            f"{friend} takes {number} of them.",
        ),
        "*": (
            f"Soon {name} has {number} times as many.",
            f"Then the number of {things} grows {number} times.",
        ),
        "/": (
            f"{name} shares them equally among {number} people and keeps one part.",
            f"{name} puts them into {number} equal piles and keeps one pile.",
        ),
    }
    return rng.choice(sentences[sign])


def _boxes(rng: random.Random) -> Problem:
    """Things in equal boxes, with some added or taken away."""
    name, things, boxes = rng.choice(NAMES), rng.choice(THINGS), rng.choice(BOXES)
    count, each, other = rng.randint(2, 12), rng.randint(2, 9), rng.randint(2, 20)
    text = rng.choice(
        (
            f"{name} has {count} {boxes} with {each} {things} each",
            f"There are {count} {boxes} and {name} puts {each} {things} into each of them",
        )
    )
    step, total = _step(rng, count, "*", each, things)
    if rng.random() < 0.4:
        question = f"{text}. How many {things} are there in all?"
        return Problem(question, (step,), total, f"boxes {count} {each}")
    sign = rng.choice("+-") if other < total else "+"
    more = {"+": f"and {other} more {things} on the table", "-": f"but {other} of the {things} are broken"}[sign]
    end, result = _step(rng, total, sign, other, things)
    ask = {"+": f"How many {things} are there in all?", "-": f"How many good {things} are there?"}[sign]
    return Problem(f"{text}, {more}. {ask}", (step, end), result, f"boxes {count} {each} {sign}{other}")


def _prices(rng: random.Random) -> Problem:
    """Two kinds of goods bought together."""
    name = rng.choice(NAMES)
    first, second = rng.sample(GOODS, 2)
    a, b, m, n = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 6), rng.randint(2, 6)
    question = (
        f"A {first} costs {a} dollars and a {second} costs {b} dollars. "
        f"{name} buys {m} {first}s and {n} {second}s. "
        + rng.choice((f"How much does {name} pay?", "How many dollars is that in total?"))
    )
    one, left = _step(rng, m, "*", a, "dollars")
    two, right = _step(rng, n, "*", b, "dollars")
    three, total = _step(rng, left, "+", right, "dollars")
    return Problem(question, (one, two, three), total, f"prices {a} {b} {m} {n}")


def _compare(rng: random.Random) -> Problem:
    """Two people, one described by the other, counted together or alone."""
    (name, friend), things = rng.sample(NAMES, 2), rng.choice(THINGS)
    have, number = rng.randint(5, 40), rng.randint(2, 25)
    sign = rng.choice("+-*") if number < have else "+"
    number = rng.randint(2, 4) if sign == "*" else number
    relation = {"+": f"{number} more {things} than", "-": f"{number} fewer {things} than"}.get(
        sign, f"{number} times as many {things} as"
    )
    step, other = _step(rng, have, sign, number, things)
    text = f"{name} has {have} {things}. {friend} has {relation} {name}."
    key = f"compare {have} {sign}{number}"
    if rng.random() < 0.3:
        return Problem(f"{text} How many {things} does {friend} have?", (step,), other, key)
    end, total = _step(rng, have, "+", other, things)
    ask = rng.choice((f"How many {things} do they have together?", "How many do they have in all?"))
    return Problem(f"{text} {ask}", (step, end), total, key + " both")


def _trip(rng: random.Random) -> Problem:
    """Distance from speed and time, with a rest of the way."""
    name, vehicle = rng.choice(NAMES), rng.choice(VEHICLES)
    speed, hours, rest = rng.randint(4, 25), rng.randint(2, 6), rng.randint(2, 40)
    step, way = _step(rng, speed, "*", hours, "miles")
    end, total = _step(rng, way, "+", rest, "miles")
    question = (
        f"{name} goes by {vehicle} at {speed} miles an hour for {hours} hours and then {rest} miles more. "
        + rng.choice(("How far is that?", f"How many miles does {name} go?"))
    )
    return Problem(question, (step, end), total, f"trip {speed} {hours} {rest}")


_KINDS: tuple[Callable[[random.Random], Problem], ...] = (_chain, _chain, _boxes, _prices, _compare, _trip)


def problems(seed: int, held_out: bool) -> Iterator[Problem]:
    """An endless seeded stream of problems from one side of the split."""
    rng = random.Random(f"arithmetic {seed}")
    while True:
        problem = rng.choice(_KINDS)(rng)
        if problem.held_out == held_out:
            yield problem


def documents(seed: int) -> Iterator[Document]:
    """An endless seeded stream of training documents, one problem each."""
    for problem in problems(seed, held_out=False):
        yield Document("arithmetic", (Segment(problem.prompt, False), Segment(problem.answer, True)))

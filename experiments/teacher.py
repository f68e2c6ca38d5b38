"""Teacher forcing: how probable a model finds a text that it did not write, each token after the true ones before it.

A text longer than a window is read in windows that overlap, so that no token but those of the first window has fewer
than `window - stride` tokens before it. Every token is predicted exactly once, but for the first one: nothing stands
before it. Where the tokenizer begins texts with a token of its own (BOS), that is the first one, and all of the text is
predicted; elsewhere the text's own first token is not. Knows models and text; refuses to know tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Any, Protocol

from mtad.model import Scored

WINDOW = 2048  # tokens; the logits of more of them would take gigabytes in float64
TOO_SHORT = "a text of fewer than two tokens has none to predict"
NOT_FINITE = "the model gives log-probabilities that are no finite numbers; a dtype with a wider range may mend that"
NOTHING = "no text has a likelihood"
TOO_LARGE = "too large for a floating-point number"


class Scorer(Protocol):
    """The part of `mtad.model.CausalModel` that this needs."""

    max_positions: int

    def score(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Scored]: ...


@dataclass(frozen=True)
class Forced:
    """A text under a model's untruncated law at temperature 1; fields as in `teacher.jsonl`.

    Attributes:
        id: of the prompt whose text it is.
        tokens: how many were predicted.
        words: of the whole text, between white space.
        bytes: of the whole text in UTF-8.
        log_likelihood: natural logarithm, of all predicted tokens.
        window: the most tokens that are read at once.
        stride: the most that are predicted in any window but the first.
        reason: why there is no likelihood; None if there is one.
    """

    id: str
    tokens: int
    words: int
    bytes: int
    log_likelihood: float | None
    window: int
    stride: int
    reason: str | None = None


def force(model: Scorer, encode: Callable[[str], Sequence[int]], id: str, text: str, window: int = WINDOW) -> Forced:
    """Score one text, window by window.

    Args:
        encode: token ids of a text, with BOS where the tokenizer adds one and without any token at the end.
        window: at most so many tokens at once, and never more than the model takes; at least 2.
    """
    ids = list(encode(text))
    window = min(window, model.max_positions)
    stride = window // 2
    scores = (
        model.score([(ids[begin:predicted], ids[predicted:end])])[0].log_likelihoods
        for begin, predicted, end in windows(len(ids), window, stride)
    )
    total = sum(float(score.sum()) for score in scores)
    reason = TOO_SHORT if len(ids) < 2 else None if isfinite(total) else NOT_FINITE
    size = len(text.encode("utf-8", "surrogatepass"))
    tokens = max(0, len(ids) - 1)
    return Forced(id, tokens, len(text.split()), size, None if reason else total, window, stride, reason)


def windows(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Of each window: where it begins, where its predictions begin, and where it ends."""
    predicted, end = 1, window
    while predicted < tokens:
        end = min(end, tokens)
        yield max(0, end - window), predicted, end
        predicted, end = end, end + stride


def figures(texts: Sequence[Forced]) -> dict[str, Mapping[str, Any]]:
    """Of all texts together: perplexity per token and per word, bits per byte; with `reason` where undefined.

    Texts without a likelihood are left out and counted.
    """
    scored = [text for text in texts if text.log_likelihood is not None]
    loss = -sum(text.log_likelihood or 0.0 for text in scored)
    tokens, words, size = (sum(getattr(text, name) for text in scored) for name in ("tokens", "words", "bytes"))
    return {
        "token_perplexity": _perplexity(loss, tokens),
        "word_perplexity": _perplexity(loss, words),
        "bits_per_byte": _figure(loss / log(2) / size if size else None, NOTHING),
        "texts": _figure(len(scored), None),
        "texts_left_out": _figure(len(texts) - len(scored), None),
    }


def _perplexity(loss: float, units: int) -> Mapping[str, Any]:
    if not units:
        return _figure(None, NOTHING)
    return _figure(exp(loss / units), None) if loss / units < 700 else _figure(None, TOO_LARGE)


def _figure(value: float | None, reason: str | None) -> Mapping[str, Any]:
    return {"value": value, "stderr": None, "reason": reason if value is None else None}

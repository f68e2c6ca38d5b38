"""A loaded pair and a decoder that answer contexts and score continuations one at a time. Knows no lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from experiments.bench import engines_of
from experiments.lm_eval.arguments import Arguments
from experiments.redact import redact
from experiments.threads import set_threads
from mtad.ending import Limits
from mtad.generate import Output, generate
from mtad.law import Sampling
from mtad.loading import inspect_pair, speller
from mtad.luck import Luck
from mtad.model import CausalModel
from mtad.placement import Placement, find_device
from mtad.session import Session
from mtad.weights import read_weights


@dataclass
class Totals:
    """What all answers took together; the prompt's prefill is not in it."""

    texts: int = 0
    tokens: int = 0
    target_forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0

    def add(self, output: Output) -> None:
        """Count an answer."""
        self.texts += 1
        self.tokens += len(output.tokens)
        self.target_forwards += output.target.forwards
        self.drafted += sum(step.drafted for step in output.rounds)
        self.accepted += sum(step.accepted for step in output.rounds)
        self.seconds += output.decode_seconds

    @property
    def figures(self) -> dict[str, float | None]:
        """Counts and the ratios that the project's own table shows; a ratio of nothing is None."""
        return {
            **asdict(self),
            "tokens_per_second": _ratio(self.tokens, self.seconds),
            "tokens_per_target_forward": _ratio(self.tokens, self.target_forwards),
            "acceptance": _ratio(self.accepted, self.drafted),
        }

    def __str__(self) -> str:
        figures = self.figures
        shown = {"tokens/s": "tokens_per_second", "tokens/forward": "tokens_per_target_forward"}
        shown["acceptance"] = "acceptance"
        ratios = [f"{label} {value:.3g}" for label, key in shown.items() if (value := figures[key]) is not None]
        return f"{self.texts} texts, {self.tokens} tokens: {', '.join(ratios)}"


class Writer:
    """Writes with the decoder, scores with the target.

    Attributes:
        arguments: what it was made from.
        tokenizer: the target's.
        totals: of all answers so far.
        max_positions: the longest context and answer together, in tokens.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.totals = Totals()
        options = arguments.options
        device = find_device(options.device)
        set_threads(options.threads)
        blueprint = inspect_pair(arguments.target, arguments.draft, options.dtype, Placement.on(device))
        if arguments.decoder.drafts:
            pair = blueprint.load(engine=options.engine)
            self._target, draft = pair.target, pair.draft
        else:  # the draft is the target's spec again, never read: its weights need not be there twice
            weights = read_weights(blueprint.target, device)
            self._target = draft = CausalModel(weights, blueprint.vocabulary, engine=options.engine)
        self.tokenizer = blueprint.tokenizer
        self.max_positions = blueprint.max_positions
        self._origins, self._eos = blueprint.origins, blueprint.eos
        self._models = {"target": self._target, "draft": draft}
        self._sessions = Session(self._target), Session(draft)
        self._detokenise = speller(blueprint.tokenizer)

    @property
    def scored_positions(self) -> int:
        """The longest text that the target alone can score."""
        return self._target.max_positions

    def write(self, context: Sequence[int], longest: int, stop: tuple[str, ...], sampling: Sampling, luck: Luck) -> str:
        """The answer to a context of at least one token, cut before its stop string."""
        limits = Limits(longest, self._eos, stop)
        output = generate(self.arguments.decoder, *self._sessions, context, limits, sampling, luck, self._detokenise)
        self.totals.add(output)
        return output.text

    @torch.inference_mode()
    def score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Log-likelihood of a continuation under the target's untruncated law, and whether it is the greedy one."""
        read = torch.tensor([[*context, *continuation[:-1]]], device=self._target.device)
        wanted = torch.tensor(list(continuation), device=self._target.device)
        logits = self._target.lm(input_ids=read, use_cache=False, logits_to_keep=len(continuation)).logits
        logits = logits[0, :, : self._target.vocabulary]
        logp = torch.log_softmax(logits.double(), dim=-1).gather(1, wanted[:, None])
        return float(logp.sum()), bool((logits.argmax(dim=-1) == wanted).all())

    def describe(self) -> dict[str, Any]:
        """Decoder, weights and figures as JSON data, without any user's path."""
        arguments = self.arguments
        roles = ("target", "draft") if arguments.decoder.drafts else ("target",)
        described: dict[str, Any] = redact(
            {
                "decoder": f"{type(arguments.decoder).__module__}.{type(arguments.decoder).__name__}",
                "options": asdict(arguments.decoder),  # type: ignore[call-overload]  # build() makes dataclasses only
                "sampling": asdict(arguments.sampling),
                "seed": arguments.options.seed,
                "weights": {name: asdict(self._origins[name]) for name in roles},
                "engines": engines_of({name: self._models[name] for name in roles}),
                "threads": torch.get_num_threads(),
                "figures": self.totals.figures,
            }
        )
        return described


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None

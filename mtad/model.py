"""A Hugging Face causal LM behind the `Model` interface of sessions: one forward for any number of ragged trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from mtad.cache import TreeCache
from mtad.clock import Mark, mark
from mtad.feeds import Feed, Together, span_of
from mtad.fused import Drafts, Program
from mtad.graphs import Graphs
from mtad.growth import Growth
from mtad.quantization import is_quantized
from mtad.recorded import CannotRecordError, Eager, Forward, Mode, Step, Traced

# How far a logit may move when the same text is read in another shape, by the type of the weights; measured on the
# embedded pair and tiny random models (tests/test_session.py holds the models to it).
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.05}
SCORE_BATCH_TOKENS = 4096  # logits of so many positions over 128 k tokens take 1 GB in bf16


@dataclass(frozen=True)
class Scored:
    """How a model sees an output of n tokens, under its untruncated law at temperature 1.

    Attributes:
        log_likelihoods: natural log-probability of each token, float64 [n].
        gaps: how far the largest logit stands above the second largest, float64 [n].
    """

    log_likelihoods: np.ndarray
    gaps: np.ndarray


class CausalModel:
    """A causal LM with a tree cache.

    Attributes:
        lm: the Hugging Face model, in evaluation mode.
        vocabulary: how many logits are real; padded rows of the embedding are sliced off.
        device: where the model takes its input, and gives its logits: accelerate brings them back there.
        devices: all that hold weights.
        max_positions: the longest text that it takes, in tokens.
        tolerance: see `TOLERANCE`.
    """

    def __init__(self, lm: PreTrainedModel, vocabulary: int, rows: int = 1, engine: Mode = "auto") -> None:
        self.lm = lm.eval().requires_grad_(False)  # a trace would keep what gradients need
        self.device: torch.device = lm.device  # which looks through its parameters, and is asked for often
        self.devices = list(dict.fromkeys(weight.device for weight in lm.parameters()))
        self.vocabulary = vocabulary
        self.max_positions: int = lm.config.max_position_embeddings
        self.tolerance = TOLERANCE.get(lm.dtype, 0.5)
        self.cache = TreeCache(_devices_of_layers(lm), rows)
        self._fallback: str | None = None
        self._forward: Forward = Eager(Step(lm, self.cache))
        self._to_record = engine != "eager"
        self._programs: dict[Growth, Program] = {}

    @property
    def engine(self) -> str:
        """What runs the forwards of rounds: "eager", "traced" (TorchScript) or "graphs" (of CUDA)."""
        return self._forward.name

    @property
    def fallback(self) -> str | None:
        """What runs eagerly although recording was asked for, and why; or None."""
        return self._fallback or self._forward.fallback

    def record(self) -> None:
        """Record the forward, where that was asked for and not done yet, and the cache exists: after a first read."""
        if not self._to_record or not self.cache.slabs:
            return
        self._to_record = False
        step = self._forward.step
        try:
            if len(self.devices) > 1:
                raise CannotRecordError("its weights are on several devices")
            if is_quantized(self.lm) and self.device.type == "cpu":
                raise CannotRecordError("its weights are quantized")
            recorded = Graphs if self.device.type == "cuda" else Traced
            self._forward = recorded(step, tuple(self.cache.slabs.values()))
        except CannotRecordError as error:
            self._fallback = f"forwards run eagerly: {error}"

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """One forward; shorter feeds are padded on the right, and rows between those of the feeds idle along."""
        self.record()
        return self._run(self._forward, feeds)

    @torch.inference_mode()
    def prefill(self, feeds: Sequence[Feed]) -> None:
        """A forward for its keys alone, of a shape that is not worth recording."""
        self._run(Eager(self._forward.step), feeds)

    def _run(self, forward: Forward, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        self.reserve(max(feed.end for feed in feeds))
        end = forward.end(max(feed.end for feed in feeds), self.cache.capacity)
        new = forward.size(max(len(feed.tokens) for feed in feeds))
        span = forward.span(span_of(feeds), self.cache.rows)
        batch = Together.of(feeds, new, end, self.cache.capacity, span)
        logits = forward(forward.step, batch.inputs(self.device), self.cache.take_aim(batch.first, batch.rows))
        return [
            logits[feed.row - batch.first, len(feed.tokens) - feed.keep : len(feed.tokens), : self.vocabulary]
            for feed in feeds
        ]

    def grows(self) -> bool:
        """Whether `grow` is worth calling: on a GPU, where every launch and transfer that it saves costs more than it.

        On a CPU the loop over reads is faster: forty small operations a level cost more than plain numbers do.
        """
        self.record()
        return self.engine == "graphs"

    @torch.inference_mode()
    def grow(self, feeds: Sequence[Feed], growth: Growth, uniforms: Sequence[np.ndarray]) -> Drafts:
        """Draft for several texts at once, without asking the host between the levels; one transfer at the end.

        Args:
            feeds: of each text what has not been read of it, its last token at least.
            growth: with a top-k in its warp.
            uniforms: for each text float64 [levels, growth.width].
        """
        levels = max(map(len, uniforms))
        self.reserve(max(feed.end for feed in feeds) + (levels - 1) * growth.width)
        program = self._programs.get(growth)
        if program is None:
            program = self._programs[growth] = Program(self._forward.step, growth, self.vocabulary)
        return program(self._forward, self.cache, feeds, uniforms, self.device)

    def move(self, row: int, sources: list[int], start: int) -> None:
        """Move accepted cache entries to where the text goes on."""
        with torch.inference_mode():
            self.cache.move(row, sources, start)

    def copy(self, source: int, row: int) -> None:
        """Let one row of the cache hold what another holds."""
        with torch.inference_mode():
            self.cache.copy(source, row)

    def reserve(self, positions: int) -> None:
        """Make room in the cache."""
        with torch.inference_mode():
            if self.cache.reserve(positions):
                self._forward.forget()

    def synchronise(self) -> None:
        """Wait for the devices."""
        for device in self.devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def mark(self) -> Mark:
        """A mark in the time of the device that a forward begins and ends on."""
        return mark(self.device)

    def score(
        self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], batch_tokens: int = SCORE_BATCH_TOKENS
    ) -> list[Scored]:
        """How probable this model finds each output after its prompt; for outside any timed window.

        Reads without the cache, texts of like length together.

        Args:
            texts: pairs of prompt and output; a prompt has at least one token.
            batch_tokens: at most so many tokens, padding included, in a forward of several texts.

        Raises:
            ValueError: a prompt is empty.
        """
        if not all(prompt for prompt, _ in texts):
            raise ValueError("a prompt needs at least one token")
        scored: dict[int, Scored] = {}
        for batch in _batches([len(prompt) + len(output) for prompt, output in texts], batch_tokens):
            for i, logits in zip(batch, self._read_together([texts[i] for i in batch]), strict=True):
                scored[i] = _scored(logits, texts[i][1])
        return [scored[i] for i in range(len(texts))]

    @torch.inference_mode()
    def _read_together(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[torch.Tensor]:
        """For each text the logits [output tokens, vocabulary] from which its output was to be chosen.

        Padded on the left, so that these stand at the end. The last token of an output need not be read.
        """
        read = [[*prompt, *output[:-1]] for prompt, output in texts]
        longest = max(map(len, read))
        tokens, positions, sees = (np.zeros((len(texts), longest), dtype=np.int64) for _ in range(3))
        for i, text in enumerate(read):
            tokens[i, longest - len(text) :] = text
            positions[i, longest - len(text) :] = range(len(text))
            sees[i, longest - len(text) :] = 1
        ids, places, mask = (torch.from_numpy(array).to(self.device) for array in (tokens, positions, sees))
        keep = max(1, *(len(output) for _, output in texts))  # 0 would mean all of them
        logits = self.lm(
            input_ids=ids, position_ids=places, attention_mask=mask, use_cache=False, logits_to_keep=keep
        ).logits
        return [logits[i, keep - len(output) :, : self.vocabulary] for i, (_, output) in enumerate(texts)]


def _devices_of_layers(lm: PreTrainedModel) -> list[torch.device]:
    """Where each layer computes its keys."""
    return [next(layer.parameters()).device for layer in lm.get_decoder().layers]


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in order of length, grouped so that number times longest stays within `tokens`, or one alone."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def _scored(logits: torch.Tensor, output: Sequence[int]) -> Scored:
    """From logits [output tokens, vocabulary], the only ones that are ever held in float64."""
    emitted = torch.tensor(list(output), device=logits.device)
    logp = torch.log_softmax(logits.double(), dim=-1).gather(1, emitted[:, None])[:, 0]
    largest = logits.topk(2, dim=-1).values.double()
    return Scored(
        log_likelihoods=logp.cpu().numpy(),
        gaps=(largest[:, 0] - largest[:, 1]).cpu().numpy(),
    )

"""A Hugging Face causal LM behind the `Model` interface of sessions: one forward for any number of ragged trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from mtad.cache import Aim, TreeCache
from mtad.clock import Mark, mark
from mtad.session import Feed

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
        max_positions: the longest text that it takes, in tokens.
        tolerance: see `TOLERANCE`.
    """

    def __init__(self, lm: PreTrainedModel, vocabulary: int, rows: int = 1) -> None:
        self.lm = lm.eval()
        self.vocabulary = vocabulary
        self.max_positions: int = lm.config.max_position_embeddings
        self.tolerance = TOLERANCE.get(lm.dtype, 0.5)
        self.cache = TreeCache(lm.config.num_hidden_layers, rows)

    @property
    def device(self) -> torch.device:
        """Where the model takes its input."""
        return self.lm.device

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """One forward; shorter feeds are padded on the left, so that the wanted logits stand at the end."""
        new = max(len(feed.tokens) for feed in feeds)
        end = max(feed.start + len(feed.tokens) for feed in feeds)
        keep = max(feed.keep for feed in feeds)
        self.cache.reserve(end)
        single = len(feeds) == 1
        if not single:
            end = self.cache.capacity  # the padding's position is the last one
        tokens = np.zeros((len(feeds), new), dtype=np.int64)
        positions = np.zeros((len(feeds), new), dtype=np.int64)
        places = np.full((len(feeds), new), self.cache.capacity - 1)
        sees = np.zeros((len(feeds), 1, new, end), dtype=bool)
        for i, feed in enumerate(feeds):
            n, width = len(feed.tokens), feed.sees.shape[1]
            tokens[i, new - n :] = feed.tokens
            positions[i, new - n :] = feed.positions
            places[i, new - n :] = range(feed.start, feed.start + n)
            sees[i, 0, new - n :, :width] = feed.sees
            sees[i, 0, : new - n, -1] = True  # padding sees itself, since a row of nothing would be NaN
        device = self.device
        start = feeds[0].start
        aimed = slice(start, start + new) if single else torch.from_numpy(places).to(device)
        self.cache.aim = Aim([feed.row for feed in feeds], aimed, end, device)
        output = self.lm(
            input_ids=torch.from_numpy(tokens).to(device),
            position_ids=torch.from_numpy(positions).to(device),
            attention_mask=self._mask(sees),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits = output.logits[:, :, : self.vocabulary]
        return [logits[i, keep - feed.keep :] for i, feed in enumerate(feeds)]

    def _mask(self, sees: np.ndarray) -> torch.Tensor:
        """Additive mask [batch, 1, new, end]: 0 where seen, the type's lowest number elsewhere."""
        dtype = self.lm.dtype
        mask = torch.full(sees.shape, torch.finfo(dtype).min, dtype=dtype)
        return mask.masked_fill_(torch.from_numpy(sees), 0.0).to(self.device)

    def move(self, row: int, sources: list[int], start: int) -> None:
        """Move accepted cache entries to where the text goes on."""
        with torch.inference_mode():
            self.cache.move(row, sources, start, self.device)

    def reserve(self, positions: int) -> None:
        """Make room in the cache."""
        self.cache.reserve(positions)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mark(self) -> Mark:
        """A mark in the device's time."""
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

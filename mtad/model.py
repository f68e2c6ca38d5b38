"""A Hugging Face causal LM behind the `Model` interface of sessions: one forward for any number of ragged trees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from mtad.cache import Aim, TreeCache
from mtad.clock import Mark, mark
from mtad.session import Feed

# How far a logit may move when the same text is read in another shape, by the type of the weights; measured on the
# embedded pair and tiny random models (tests/test_session.py holds the models to it).
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.05}


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

    @torch.inference_mode()
    def log_likelihoods(self, prompt: Sequence[int], output: Sequence[int]) -> np.ndarray:
        """Log-probability of each output token under the untruncated law at temperature 1, float64 [output tokens].

        Reads the text in one forward without the cache; meant for scoring outside any timed window.
        """
        if not output:
            return np.zeros(0)
        ids = torch.tensor([[*prompt, *output]], device=self.device)
        logits = self.lm(input_ids=ids, use_cache=False, logits_to_keep=len(output) + 1).logits
        logp = torch.log_softmax(logits[0, :-1, : self.vocabulary].double(), dim=-1)
        return np.asarray(logp.gather(1, ids[0, len(prompt) :, None])[:, 0].cpu().numpy())

"""Which models read token trees right, by their configuration alone.

A tree is read in one forward: every node is told its position, and a mask says what it attends to. That needs a model
that takes both as they are. Knows Hugging Face's configurations and classes; reads no weights.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from mtad.errors import UserError

WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
READ_WHOLE = {"full_attention", *WINDOWS}  # kinds of layers that attend to all that the mask shows them
STATEFUL = "it has recurrent or linear layers, which carry one state along a text and cannot branch"


def check_trees(name: str, config: Any, longest: int | None = None) -> None:
    """Raises UserError if the model cannot read token trees, or texts of `longest` tokens, as it was trained to.

    Args:
        name: what messages call it.
        config: of Hugging Face.
        longest: tokens of the longest text with its answer; None: not known, so that no window is compared with it.
    """
    if reason := _refuses(config):
        raise UserError(f"{name} ({config.model_type}) cannot read token trees: {reason}; take a pair of another kind")
    window = window_of(config)
    if window is not None and longest is not None and longest > window:
        raise UserError(
            f"{name} ({config.model_type}) attends to the last {window} tokens in some layers, which a tree's mask "
            f"does not know, and the longest text may have {longest}: lower max_new_tokens, or take shorter prompts"
        )


def window_of(config: Any) -> int | None:
    """The shortest window of its layers, in tokens; None: every layer attends to the whole text."""
    layers = getattr(config, "layer_types", None)
    names = [WINDOWS[kind] for kind in set(layers) if kind in WINDOWS] if layers else [*WINDOWS.values()]
    windows = [window for name in names if (window := getattr(config, name, None)) is not None]
    return min(windows, default=None)


def _refuses(config: Any) -> str | None:
    """Why trees cannot be read; None if they can."""
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder with a decoder"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "transformers has no causal language model of this kind"
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    layers = set(getattr(config, "layer_types", None) or ())
    if getattr(kind, "_is_stateful", False) or not layers <= READ_WHOLE:
        return STATEFUL
    if getattr(config, "alibi", False) or "position_ids" not in signature(kind.forward).parameters:
        return "it counts positions by itself (as with ALiBi), so that siblings in a tree would not share theirs"
    if not kind._supports_sdpa:
        return "its attention has no sdpa kernel in transformers, the one that takes a tree's mask"
    return None

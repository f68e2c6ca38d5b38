"""Models on the disk, for everything that loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.toy import WORDS

POSITIONS = 64

# The models of tests are too small for threads to pay, and the tests themselves may run in parallel.
torch.set_num_threads(1)


def save_tokenizer(folder: Path, words: list[str] = WORDS) -> None:
    """A word-level tokenizer: <s> is 0, </s> is 1, then the words."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def save_model(folder: Path, layers: int, rows: int, seed: int) -> None:
    """A random Llama with `rows` rows of embeddings, and its tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)


@pytest.fixture(scope="session")
def saved_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `target` and `draft`, whose embeddings have four and no padded rows."""
    folder = tmp_path_factory.mktemp("pair")
    save_model(folder / "target", layers=2, rows=len(WORDS) + 6, seed=1)
    save_model(folder / "draft", layers=1, rows=len(WORDS) + 2, seed=2)
    return folder

"""Tiny random models on the disk in Hugging Face's format: in one file or in shards, as safetensors or as PyTorch's.

The sharded ones are what every way of loading has to take: their layers divide by two processes and by the blocks
that quantizers work on, and the rows of their embeddings are more than the tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PreTrainedTokenizerFast, Qwen3Config
from transformers.configuration_utils import PretrainedConfig

from tests.toy import WORDS

POSITIONS = 64  # of the models of `save_model`
SHARDED_POSITIONS = 256
SHARD = "500KB"
SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def save_tokenizer(folder: Path, words: list[str] = WORDS) -> None:
    """A word-level tokenizer: <s> is 0, </s> is 1, then the words."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def save_model(folder: Path, layers: int, rows: int, seed: int) -> None:
    """A random Llama with `rows` rows of embeddings, and its tokenizer."""
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
    _save(folder, config, seed, "1GB")


def save_sharded(folder: Path, family: str, layers: int, rows: int, seed: int) -> None:
    """A random model of the family (llama, opt, qwen3) in three shards or more, and its tokenizer."""
    _save(folder, _config(family, layers, rows), seed, SHARD)


def save_sharded_pair(folder: Path, family: str) -> Path:
    """`folder` with a `target` of three layers and a `draft` of two, 60 tokens, and 68 and 4 rows that are padded."""
    save_sharded(folder / "target", family, layers=3, rows=128, seed=3)
    save_sharded(folder / "draft", family, layers=2, rows=64, seed=4)
    return folder


def _save(folder: Path, config: PretrainedConfig, seed: int, shard: str) -> None:
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size=shard)
    save_tokenizer(folder)


def _config(family: str, layers: int, rows: int) -> PretrainedConfig:
    """Four heads, the keys and values of Llama and Qwen in two groups; every linear layer a multiple of 64 each way."""
    if family == "opt":
        return OPTConfig(
            vocab_size=rows,
            hidden_size=128,
            word_embed_proj_dim=128,
            ffn_dim=256,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=SHARDED_POSITIONS,
            init_std=0.15,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    kinds: dict[str, type[PretrainedConfig]] = {"llama": LlamaConfig, "qwen3": Qwen3Config}
    return kinds[family](
        vocab_size=rows,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=SHARDED_POSITIONS,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_id=1,
    )


def shards(folder: Path) -> list[Path]:
    """The safetensors of a folder, in order."""
    return sorted(folder.glob("*.safetensors"))


def add_torch_files(folder: Path) -> None:
    """Beside a folder's safetensors, the same weights as `torch.save` writes them: as many files, and an index."""
    names = {file.name: _torch_name(file.name) for file in shards(folder)}
    for safe, name in names.items():
        torch.save(load_file(folder / safe), folder / name)
    if (folder / SAFE_INDEX).is_file():
        index = json.loads((folder / SAFE_INDEX).read_text())
        index["weight_map"] = {tensor: names[safe] for tensor, safe in index["weight_map"].items()}
        (folder / TORCH_INDEX).write_text(json.dumps(index))


def drop_safetensors(folder: Path) -> None:
    """Leave a folder without safetensors and their index."""
    for file in (*shards(folder), folder / SAFE_INDEX):
        file.unlink(missing_ok=True)


def _torch_name(safe: str) -> str:
    return safe.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")

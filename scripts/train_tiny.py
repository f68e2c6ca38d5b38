"""Trains the embedded model pair on a CPU, from nothing but the generated corpus and the standard library.

    python -m scripts.train_tiny --role tokenizer
    python -m scripts.train_tiny --role target --steps 1700
    python -m scripts.train_tiny --role draft --steps 1000

A run writes a checkpoint every ``--save-every`` steps and resumes from it when started again; batches depend on the
seed alone, so that a resumed run equals an uninterrupted one. The learning rate warms up, stays, and falls linearly
to zero over the last part of ``--steps``: to stop a run early, stop it and resume with a smaller ``--steps``.
``--export-only`` writes the model of the latest checkpoint without training. On Linux the run is about a third
faster with ``MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184``, which keeps freed memory.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.corpus.packing import BOS, EOS, ROW, VOCABULARY, Row, batches, train_tokenizer
from experiments.task import read_prompts

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "mtad" / "tiny"
HELD_OUT_CODE = ROOT / "experiments" / "tasks" / "data" / "code.jsonl"
POSITIONS = 2048
WARM_UP = 60  # steps
DECAY = 0.25  # share of the steps over which the learning rate falls to zero
MATRIX_RATE, OTHER_RATE = 6e-3, 4e-3  # peak learning rates of Muon and of AdamW


@dataclass(frozen=True)
class Shape:
    """The size of a model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int


@dataclass(frozen=True)
class Loss:
    """The weighted sum of a row's token losses, in nats, and the sum of the weights."""

    task: str
    nats: float
    weight: float


SHAPES = {"target": Shape(12, 256, 768, 4), "draft": Shape(1, 128, 384, 2), "judge": Shape(6, 256, 768, 4)}


def build(shape: Shape, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """A new Llama model with tied embeddings, initialised from torch's global generator."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


def weighted_losses(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Sums of weighted token losses, ``[rows]``, of ``tokens`` ``[rows, ROW + 1]`` and ``weights`` ``[rows, ROW]``."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (losses.view_as(weights) * weights).sum(dim=1)


class Training:
    """A model with its optimisers and the number of steps taken."""

    def __init__(self, shape: Shape, seed: int, rows_at_once: int, compiled: bool) -> None:
        torch.manual_seed(seed)
        self.model = build(shape)
        self.step = 0
        self.rows_at_once = rows_at_once
        self.losses = torch.compile(weighted_losses) if compiled else weighted_losses
        matrices = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.model.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimisers: dict[float, torch.optim.Optimizer] = {
            MATRIX_RATE: torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            OTHER_RATE: torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        }

    def advance(self, rows: list[Row], steps: int) -> list[Loss]:
        """One optimiser step of a run of ``steps``; returns each row's loss."""
        for rate, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rate * schedule(self.step, steps)
        total = sum(sum(row.weights) for row in rows)
        found: list[Loss] = []
        for start in range(0, len(rows), self.rows_at_once):
            part = rows[start : start + self.rows_at_once]
            tokens = torch.tensor([row.tokens for row in part])
            losses = self.losses(self.model, tokens, torch.tensor([row.weights for row in part]))
            (losses.sum() / total).backward()
            found += [Loss(row.task, loss, sum(row.weights)) for loss, row in zip(losses.tolist(), part, strict=True)]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers.values():
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        return found

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers.values()]
        return {"step": self.step, "model": self.model.state_dict(), "optimisers": optimisers}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers.values(), state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def schedule(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: warm-up, plateau, linear decay."""
    return min(1.0, (step + 1) / WARM_UP, max(0.0, (steps - step) / (DECAY * steps)))


def save(training: Training, path: Path) -> None:
    """Writes a checkpoint so that a kill at any moment leaves either the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(training.state(), partial)
    partial.replace(path)


def run(training: Training, stream: Iterator[list[Row]], steps: int, path: Path, save_every: int) -> None:
    """Trains up to ``steps``, logging the mean loss of each task every 50 steps."""
    started, first = time.monotonic(), training.step
    recent: list[Loss] = []
    for rows in itertools.islice(stream, training.step, None):
        if training.step >= steps:
            break
        recent += training.advance(rows, steps)
        if training.step % 50 == 0 or training.step == first + 5:
            rate = (training.step - first) * len(rows) * ROW / (time.monotonic() - started)
            losses = " ".join(f"{task} {loss:.3f}" for task, loss in by_task(recent).items())
            print(f"{time.strftime('%X')} step {training.step}/{steps} {losses} {rate:.0f} tokens/s", flush=True)
            recent = []
        if training.step % save_every == 0:
            save(training, path)
    save(training, path)


def by_task(recent: list[Loss]) -> dict[str, float]:
    """Mean weighted loss per task, in nats per weighted token."""
    return {
        task: sum(loss.nats for loss in recent if loss.task == task)
        / sum(loss.weight for loss in recent if loss.task == task)
        for task in dict.fromkeys(loss.task for loss in recent)
    }


def export_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizer as a Hugging Face folder."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def export(training: Training, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes model (bfloat16) and tokenizer as a Hugging Face folder."""
    training.model.to(torch.bfloat16).save_pretrained(folder)
    export_tokenizer(tokenizer, folder)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=["tokenizer", *SHAPES], required=True)
    parser.add_argument("--steps", type=int, default=0, help="length of the whole run, earlier steps included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--respell-from", type=int, default=900, help="step from which SQL comes in many spellings")
    parser.add_argument("--shape", type=int, nargs=4, metavar=("LAYERS", "HIDDEN", "INTERMEDIATE", "HEADS"))
    parser.add_argument("--checkpoints", type=Path, default=ROOT / ".cache" / "tiny")
    parser.add_argument("--name", help="name of the checkpoint (default: the role)")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--rows-at-once", type=int, default=8, help="rows of a batch in one forward pass")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--output", type=Path, help="folder to export to (default: the role's in mtad/tiny)")
    return parser.parse_args()


def main() -> None:
    """Trains and exports what the command line asks for."""
    options = arguments()
    saved_tokenizer = options.checkpoints / "tokenizer.json"
    if options.role == "tokenizer":
        options.checkpoints.mkdir(parents=True, exist_ok=True)
        train_tokenizer(options.seed).save(str(saved_tokenizer))
        return
    tokenizer = Tokenizer.from_file(str(saved_tokenizer))
    shape = Shape(*options.shape) if options.shape else SHAPES[options.role]
    training = Training(shape, options.seed, options.rows_at_once, not options.no_compile)
    checkpoint = options.checkpoints / f"{options.name or options.role}.pt"
    if checkpoint.exists():
        training.load(torch.load(checkpoint, weights_only=True))
    if not options.export_only:
        held_out = [prompt.text + prompt.answer["code"] for prompt in read_prompts(HELD_OUT_CODE)]
        stream = batches(tokenizer, options.seed, held_out, options.respell_from)
        run(training, stream, options.steps, checkpoint, options.save_every)
    export(training, tokenizer, options.output or TINY / options.role)


if __name__ == "__main__":
    main()

"""A task of random words for the random pair that `saved_pair` puts on the disk, and runs of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from experiments.settings import Settings, read_settings
from experiments.task import Prompt, Task, Turn
from mtad.errors import UserError

ROOT = Path(__file__).parents[1]
WORDS = [f"w{i}" for i in range(58)]


@dataclass(frozen=True)
class Toy(Task):
    max_new_tokens: int = 12
    size: int = 6
    name: str = field(default="toy", init=False)
    stop: tuple[str, ...] = field(default=(), init=False)

    def prompts(self) -> Sequence[Prompt]:
        return [Prompt(f"toy/{i}", (Turn(" ".join(WORDS[i : i + 5])),)) for i in range(self.size)]

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        words = text.split()
        return {"even": sum(word in WORDS[::2] for word in words) / max(len(words), 1)}


@dataclass(frozen=True)
class Talk(Task):
    """Three prompts of one, two and three turns; the last one has the replies that it looks back on."""

    max_new_tokens: int = 6
    heavy: bool = False
    max_prompt_tokens: int | None = None
    refuses: bool = False
    name: str = field(default="talk", init=False)
    dialogue: bool = field(default=True, init=False)

    def prompts(self) -> Sequence[Prompt]:
        first, second, third = (
            Turn(f"w{i} w{i + 1}", document=" ".join(WORDS[:8]), after=f" w{i + 9}") for i in range(3)
        )
        return [
            Prompt("talk/one", (first,), {"likes": "w1"}, group="short", private=True),
            Prompt("talk/two", (first, second), {"likes": "w2"}, group="long"),
            Prompt("talk/told", (*(replace(turn, reply="w7 w8") for turn in (first, second)), third), group="long"),
        ]

    def check(self) -> None:
        if self.refuses:
            raise UserError("task talk cannot be graded here")

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        return {"length": min(len(text.split()), 10) / 10, "likes": float(prompt.answer.get("likes", "w3") in text)}

    def reference(self, prompt: Prompt) -> str | None:
        return " ".join(WORDS) if prompt.group == "long" else None

    def figures(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        return {"likes in all": {"value": sum(row["grades"]["likes"] for row in rows), "stderr": None, "reason": None}}

    def files(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {f"said/{label}.jsonl": [{"id": row["prompt_id"], "text": row["text"]} for row in rows]}

    def origin(self) -> Mapping[str, Any]:
        return {"file": "none", "licence": "own work"}


@contextmanager
def composed(*overrides: str) -> Iterator[DictConfig]:
    """The configuration of run.py for the toy task, as `@hydra.main` would compose it, with the groups usable."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield composed_here(*overrides)


def composed_here(*overrides: str) -> DictConfig:
    """The same where Hydra knows the folder already, and so the files that it has read of it."""
    config = compose("config", [f"hydra.searchpath=[file://{ROOT}/tests/conf]", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def settings_of(*overrides: str) -> Settings:
    """The settings that these overrides give, for any task."""
    with composed(*overrides) as config:
        return read_settings(config)


def toy_settings(pair: Path, results: Path, *overrides: str) -> Settings:
    """The settings of a run of the toy task on a saved pair."""
    pairs = [f"model.{role}.path={pair / role}" for role in ("target", "draft")]
    return settings_of("task=toy", *pairs, f"results_dir={results}", *overrides)

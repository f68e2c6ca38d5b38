"""A task of random words for the random pair that `saved_pair` puts on the disk, and runs of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from experiments.settings import Settings, read_settings
from experiments.task import Prompt, Task, Turn

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


@contextmanager
def composed(*overrides: str) -> Iterator[DictConfig]:
    """The configuration of run.py for the toy task, as `@hydra.main` would compose it, with the groups usable."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config", [f"hydra.searchpath=[file://{ROOT}/tests/conf]", *overrides], return_hydra_config=True
        )
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        yield config


def settings_of(*overrides: str) -> Settings:
    """The settings that these overrides give, for any task."""
    with composed(*overrides) as config:
        return read_settings(config)


def toy_settings(pair: Path, results: Path, *overrides: str) -> Settings:
    """The settings of a run of the toy task on a saved pair."""
    pairs = [f"model.{role}.path={pair / role}" for role in ("target", "draft")]
    return settings_of("task=toy", *pairs, f"results_dir={results}", *overrides)

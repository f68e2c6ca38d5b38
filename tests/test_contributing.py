"""The decoder that CONTRIBUTING.md prints works as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import baselines
from baselines.autoregressive import Autoregressive
from experiments.build import build
from mtad.decoder import Decoder
from mtad.errors import UserError
from tests.fakes import llama, noisy
from tests.helpers import CONF, write

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page prints, whose `baselines` and `conf` add to the project's."""
    blocks = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert set(blocks) == {"baselines/floor.py", "conf/decoder/floor.yaml"}
    for name, text in blocks.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path / "baselines")])
    monkeypatch.delitem(sys.modules, "baselines.floor", raising=False)
    return tmp_path


def composed(folder: Path, *options: str) -> Decoder:
    """The decoder as the command line makes it."""
    overrides = [f"hydra.searchpath=[file://{folder / 'conf'}]", "decoder=floor", *options]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides).decoder)
    return build("decoder floor", config)


def test_it_composes_and_writes(folder: Path) -> None:
    target = llama()
    output = write(composed(folder), target, noisy(target, llama), limit=24)
    assert len(output.tokens) == 24
    assert sum(len(step.tokens) for step in output.rounds) == 24
    assert output.target.forwards == len(output.rounds) < 24, "drafted tokens are accepted"


def test_its_options_do_what_they_say(folder: Path) -> None:
    target, draft = llama(), noisy(llama(), llama)
    nothing = write(composed(folder, "decoder.floor=1"), target, draft, limit=24)
    assert nothing.tokens == write(Autoregressive(), target, draft, limit=24).tokens
    everything = write(composed(folder, "decoder.floor=0", "decoder.gamma=3"), target, draft, limit=24)
    assert [step.accepted for step in everything.rounds] == [3] * 6
    with pytest.raises(UserError, match="decoder floor: gamma must be"):
        composed(folder, "decoder.gamma=0")


def test_it_is_written_as_the_project_is(folder: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

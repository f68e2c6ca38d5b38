"""Commands as the documentation prints them, and whether the program that each names would accept it.

A command of `run.py` is composed and its settings are read, so every key, group, decoder and task in it exists. One of
another module goes through the module's own parser of arguments, and stops there. Nothing here reads a weight.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict
from torch.distributed.run import get_args_parser

from experiments.composed import composed
from experiments.replay.command import asked as settings_of_replay
from experiments.settings import read_each, read_settings
from tests.helpers import ALL
from tests.toy import ROOT

FENCE = re.compile(r"^( *)```(?P<language>\w*)\n(?P<lines>.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`((?:\.venv/bin/)?(?:python|pip|make|torchrun|mtad-bench)\s[^`]+)`")
SHELL = {"", "sh", "bash", "shell", "console"}  # languages of fences that hold commands; output is ```text
OPTIONAL = re.compile(r"\[(--[^\]]+)\]")  # as in [--turn N]
PLACEHOLDERS = (
    (re.compile(r"\bmodel=NAME\b"), "model=tiny"),
    (re.compile(r"\bdecoder=NAME\b"), "decoder=mtad"),
    (re.compile(r"\btask=NAME\b"), "task=sql"),
    (re.compile(r"<[\w ]+>"), "some"),
    (re.compile(r" (?:OVERRIDES|SETTINGS|KEY=VALUE)$"), ""),
    (re.compile(r"(?<=--turn )N|(?<=--repeat )N|(?<=--limit )N"), "0"),
)
NOT_OURS = {  # programs that are not this project's, and why no test calls them as printed
    "cd": "a shell's own",
    "export": "a shell's own",
    "git": "needs the network",
    "huggingface-cli": "needs an account of the hub",
    "hf": "needs an account of the hub",
    "sbatch": "needs a cluster",
    "wandb": "needs an account of wandb",
}


@dataclass(frozen=True)
class Command:
    """A line of the documentation that a reader may type; `fenced` ones stand in a block of their own."""

    page: str
    text: str
    fenced: bool = True

    @property
    def words(self) -> list[str]:
        """As a shell would split it, with something in every placeholder."""
        text = OPTIONAL.sub(r"\1", self.text)
        for pattern, example in PLACEHOLDERS:
            text = pattern.sub(example, text)
        return shlex.split(text)


class Accepted(BaseException):
    """Raised in place of what a command would do once its arguments are read; nothing may catch it on the way."""


def pages() -> list[Path]:
    """Everything written for readers that prints commands."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> Iterator[Command]:
    """Those of a page: every line of its shell blocks, and what stands in its sentences."""
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    for block in FENCE.finditer(text):
        if block["language"] in SHELL:
            for line in block["lines"].replace("\\\n", " ").splitlines():
                if words := shlex.split(line.removeprefix("$ "), comments=True):
                    yield Command(name, shlex.join(words) if "'" in line or '"' in line else " ".join(words))
    for span in SPAN.findall(FENCE.sub("", text)):
        if "..." not in span:  # an abbreviation
            yield Command(name, " ".join(span.split()), fenced=False)


def check(words: Sequence[str]) -> None:
    """Raises UserError, SystemExit or AssertionError where the program would not take this command.

    Only within `experiments.composed.configured`: many commands together, since Hydra then reads each YAML once.
    """
    words = [word for place, word in enumerate(words) if place or not re.match(r"[A-Z_]+=", word)]
    program, rest = words[0].removeprefix(".venv/bin/"), list(words[1:])
    if program == "python" and rest[0] == "-m":
        _module(rest[1], rest[2:])
    elif program == "python" and rest[0] == "run.py":
        check_run(rest[1:])
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"
    elif program == "mtad-bench":
        check_run(rest)
    elif program == "make":
        _make(rest)
    elif program == "torchrun":
        asked = get_args_parser().parse_args(rest)
        assert asked.training_script == "run.py"
        check_run(asked.training_script_args)
    elif program == "pip":
        _pip(rest)
    else:
        assert program in NOT_OURS, f"{program} is no program that tests/doc_commands.py knows"


def check_run(overrides: Sequence[str]) -> None:
    """Settings of run.py, of the first and the last cell of a sweep. Raises UserError."""
    if "--help" in overrides:
        return
    values = [one for place, one in enumerate(overrides) if "=" in one or overrides[place - 1] == "--cfg"]
    unknown = set(overrides) - {*values, "-m", "--multirun", "--cfg"}
    assert not unknown, f"run.py has no {unknown}"
    values = [one for one in values if one not in {"job", "all", "hydra"}]
    if "task=lm_eval" in values:  # its tasks load their data when they are made; this one's is in the repository
        values = [one for one in values if not one.startswith("task.name=")]
        values += ["task.name=local_sums", f"task.include={ROOT}/tests/fixtures/lm_eval"]
    cells = list(_cells(values)) if {"-m", "--multirun"} & set(overrides) else [values]
    for cell in (cells[0], cells[-1])[: len(cells)]:
        read_each(composed("config", cell))


def _cells(overrides: Sequence[str]) -> Iterator[list[str]]:
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    for batch in BasicSweeper.split_arguments(parser.parse_overrides(list(overrides)), max_batch_size=None):
        yield from batch


def _make(rest: Sequence[str]) -> None:
    """What make would do, without doing it; the command that it would run is looked at in turn."""
    done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if line.startswith(".venv/bin/python run.py"):
            check(shlex.split(line))


def _pip(rest: Sequence[str]) -> None:
    """Groups and files that pip is told of are there."""
    assert rest[0] == "install"
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for place, word in enumerate(rest[1:], 1):
        name, _, groups = word.removesuffix("]").partition("[")
        if rest[place - 1] == "-c":
            assert (ROOT / word).is_file()
        elif groups:
            assert name in {".", "mtad-bench"} and set(groups.split(",")) <= set(known), f"there is no {word}"


def _module(name: str, rest: Sequence[str]) -> None:
    """A module's own parser reads the arguments; what of them are settings is composed."""
    assert importlib.util.find_spec(name), f"there is no module {name}"
    if not rest:
        return  # a sentence that names the module
    if name == "experiments.cost":
        _cost(rest)
    elif name == "experiments.replay":
        settings_of_replay(parsed(name, rest).settings)
    else:
        asked = parsed(name, rest)
        if name == "scripts.bench":
            composed("bench", asked.settings)
        if name == "experiments.lm_eval":
            assert asked.model.removeprefix("mtad-") in ALL


def _cost(overrides: Sequence[str]) -> None:
    config: DictConfig = composed("cost", overrides)
    with open_dict(config):
        del config["cost"]
    read_settings(config)


def parsed(name: str, rest: Sequence[str]) -> argparse.Namespace:
    """What the parser of `python -m NAME` makes of these arguments; the module goes no further. Raises SystemExit."""

    def stop(asked: argparse.Namespace) -> NoReturn:
        raise Accepted(asked)

    package = importlib.util.find_spec(name)
    is_package = package is not None and package.submodule_search_locations is not None
    module = importlib.import_module(f"{name}.__main__" if is_package else name)
    with _no_hydra(), pytest.MonkeyPatch.context() as patch:
        for method in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, method)
            patch.setattr(argparse.ArgumentParser, method, lambda self, *a, of=original, **k: stop(of(self, *a, **k)))
        patch.setattr(sys, "argv", [name, *rest])
        try:
            module.main()
        except Accepted as accepted:
            return accepted.args[0]
    raise AssertionError(f"{name} reads no arguments")


@contextmanager
def _no_hydra() -> Iterator[None]:
    """Within, a module may begin a configuration of its own; ours is back afterwards, in whatever instance there is."""
    ours = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = ours

"""House rules that a reader relies on: which way imports run, what the core needs, how long files are."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LONGEST = 320  # lines of a file
BELOW = {  # the packages of ours that each may import, itself apart
    "mtad": set(),
    "baselines": {"mtad"},
    "experiments": {"mtad", "baselines"},
    "scripts": {"mtad", "baselines", "experiments"},
}
OURS = {*BELOW, "run", "tests", "conf"}
CONFIGURATION = {"hydra", "omegaconf"}  # what algorithms do not know
OPTIONAL = (
    "bitsandbytes",
    "datasets",
    "jinja2",
    "lm_eval",
    "matplotlib",
    "pandas",
    "rouge_score",
    "sqlglot",
    "submitit",
    "torchao",
    "vllm",
    "wandb",
)
NO_PAPER = {"baselines.autoregressive"}  # plain sampling has no one source
MACHINE_PATH = re.compile(rf"(?<![\w.])/(?:{'|'.join(('home', 'root', 'work', 'Users'))})/\w")


def tracked(*patterns: str) -> list[Path]:
    """The files that git tracks and that are still there."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def imports(path: Path) -> Iterator[str]:
    """The top-level names of all packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} uses a relative import"
            yield str(node.module).split(".")[0]


def modules(*packages: str) -> list[str]:
    """The dotted names of all modules of `packages`."""
    paths = [path.relative_to(ROOT) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


@pytest.mark.parametrize("package", BELOW)
def test_imports_run_one_way(package: str) -> None:
    forbidden = OURS - BELOW[package] - {package}
    if package in {"mtad", "baselines"}:
        forbidden |= CONFIGURATION
    wrong = {path.name: found for path in tracked(f"{package}/*.py") if (found := forbidden & set(imports(path)))}
    assert not wrong


@pytest.mark.platform
def test_a_run_on_the_embedded_pair_needs_no_optional_package() -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in OPTIONAL)
    everything = [*modules("mtad", "baselines", "experiments"), "run"]
    names = [name for name in everything if not name.startswith("experiments.report")]  # a run makes no reports
    program = f"import importlib, sys\n{blocked}for name in {names!r}:\n    importlib.import_module(name)\n"
    program += "from mtad.loading import ModelSpec, load_pair\n"
    program += "load_pair(*(ModelSpec(path=f'mtad/tiny/{role}') for role in ('target', 'draft')), 'cpu')\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    split = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in split}


def needed(requirements: list[str], extras: set[str]) -> Iterator[Requirement]:
    """The requirements that hold on this machine, for any of `extras`."""
    for requirement in map(Requirement, requirements):
        environments = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


def test_every_dependency_is_pinned() -> None:
    pinned = pins()
    ours = importlib.metadata.metadata("mtad-bench")
    wanted = needed(importlib.metadata.requires("mtad-bench") or [], set(ours.get_all("Provides-Extra", [])))
    queue = [requirement for requirement in wanted if requirement.name != "mtad-bench"]  # groups of groups
    for requirement in queue:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None and version in requirement.specifier, f"{requirement} against the pin {version}"
    seen = set[str]()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        accelerator = name in {"triton", "cuda-toolkit", "cuda-bindings"} or name.startswith("nvidia-")
        if name in seen or (accelerator and name != "nvidia-ml-py"):
            continue  # the CUDA build of torch pins its own
        seen.add(name)
        assert name in pinned, f"{name} is not in constraints.txt"
        installed = list(importlib.metadata.distributions(name=name))
        if installed and installed[0].version.split("+")[0] == pinned[name]:  # not so for groups that are not installed
            queue += needed(installed[0].requires or [], requirement.extras)


def test_pins_fit_every_machine() -> None:
    assert not [name for name, version in pins().items() if "+" in version or name.startswith("nvidia-cu")]


def decoder_modules() -> list[str]:
    configs = map(OmegaConf.load, sorted((ROOT / "conf" / "decoder").glob("*.yaml")))
    return sorted({config["_target_"].rpartition(".")[0] for config in configs})


def test_every_decoder_says_where_it_comes_from() -> None:
    names = decoder_modules()
    assert names
    for name in names:
        source = (ROOT / name.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        assert docstring, f"{name} has no docstring"
        assert name in NO_PAPER or re.search(r"arXiv\s\d{4}\.\d{4,5}", docstring), f"{name} cites no paper"


def test_every_module_says_what_it_is() -> None:
    silent = [
        path.name
        for path in tracked("*.py", ":!tests/__init__.py")
        if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert not silent


def test_files_fit_a_readers_patience() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in tracked("*.py")}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_no_path_of_one_machine() -> None:
    paths = tracked(".", ":!*.safetensors", ":!*.png", ":!*.svg")
    found = [path.name for path in paths if MACHINE_PATH.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert not found


@pytest.mark.parametrize("script", [".ci/run"])
def test_shell_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)

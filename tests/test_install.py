"""Installed from a wheel it runs from anywhere; another package brings a decoder, a task and a pair without a flag."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from experiments import groups
from experiments.api import decoder, measure
from experiments.composed import composed, configured
from experiments.outside import outside_code
from mtad.mtad import Mtad
from tests.conftest import PythonRun
from tests.toy import ROOT

pytestmark = pytest.mark.platform  # it starts other programs

SHIPPED = ("mtad", "baselines", "experiments", "scripts", "conf", "hydra_plugins")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def install(source: Path, target: Path) -> None:
    """A folder or a wheel, without what it needs, into a folder of its own."""
    command = [*PIP, "install", "--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the toy package, from a copy of its source."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(ROOT / "tests" / "toy_package", folder / "source")
    install(folder / "source", folder / "site")
    return folder / "site"


@pytest.fixture
def toy(site: Path, saved_pair: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, and Python finds it."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("TOY_WEIGHTS", str(saved_pair))
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_decoders"]:
        del sys.modules[name]


def test_a_package_outside_brings_decoder_task_and_pair_by_their_names(
    toy: Path, python_run: PythonRun, tmp_path: Path
) -> None:
    code, out, err = python_run(
        "decoder=agree", "decoder.rank=60", "task=words", "model=toy", "limit=2", f"results_dir={tmp_path}"
    )
    assert code == 0, err
    agree = next(line.split() for line in out.splitlines() if line.split()[:1] == ["agree"])
    assert "toy, words, 2 prompts" in out and agree[3] == "1.000", "of rank 60 is every token of the vocabulary"
    assert not err.count("warning: the configurations")


def test_references_groups_and_other_commands_see_them_too(toy: Path, tmp_path: Path) -> None:
    with configured():
        for command in ("config", "bench", "replay"):
            composed(command, ["decoder=agree"])
            assert "agree" in groups.names("decoder") and "mtad" in groups.names("decoder")
        assert groups.load("task", "words")["_target_"] == "toy_decoders.words.Words"
    run = ("task=words", "model=toy", "limit=1", f"results_dir={tmp_path}")
    found = measure("decoder=agree", "reference=[autoregressive,{decoder: agree, rank: 1, label: first}]", *run)
    assert list(found.variants["variant"]) == ["agree", "autoregressive", "first"]


def test_a_search_path_of_the_command_line_finds_a_package_that_names_no_entry_point(
    toy: Path, python_run: PythonRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(toy / "toy_decoders", bare / "toy_decoders")
    monkeypatch.setattr(sys, "path", [str(bare), *(place for place in sys.path if place != str(toy))])
    importlib.invalidate_caches()
    code, out, err = python_run("decoder=agree", "--cfg=job")
    assert code and "agree" in err, "nothing else makes it known"
    code, out, err = python_run("hydra.searchpath=[pkg://toy_decoders.conf]", "decoder=agree", "--cfg=job")
    assert code == 0 and "toy_decoders.agree.Agree" in out, err


def test_a_broken_entry_point_is_one_line_that_names_its_package_and_stops_no_run(
    toy: Path, python_run: PythonRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"  # what half an uninstallation leaves
    shutil.copytree(toy / "toy_decoders-1.0.dist-info", left / "toy_decoders-1.0.dist-info")
    monkeypatch.setattr(sys, "path", [str(left), *(place for place in sys.path if place != str(toy))])
    code, out, err = python_run("--cfg=job")
    assert code == 0 and "decoder:" in out
    (line,) = err.splitlines()
    assert line.startswith("warning: the configurations of the package toy-decoders are left out: its entry point toy")


def test_to_know_of_a_package_none_of_its_code_is_run(
    site: Path, python_run: PythonRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "toy_decoders" / "__init__.py").write_text("raise SystemExit('ends it')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    code, out, err = python_run("--cfg=job")
    assert code == 0 and "decoder:" in out and not err


def test_no_package_changes_what_one_of_our_names_means(toy: Path, tmp_path: Path) -> None:
    theirs = toy / "toy_decoders" / "conf" / "decoder" / "mtad.yaml"
    theirs.write_text("_target_: toy_decoders.agree.Agree\n", encoding="utf-8")
    try:
        assert decoder("mtad") == Mtad()
    finally:
        theirs.unlink()


def test_other_applications_of_hydra_are_left_as_they_are(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("a: 1\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("app").a == 1
        assert "toy-decoders" not in [one.provider for one in GlobalHydra.instance().config_loader().get_sources()]


def test_a_run_knows_an_edited_decoder_of_another_package_for_another_one(toy: Path) -> None:
    before = outside_code(type(decoder("agree")))
    source = toy / "toy_decoders" / "agree.py"
    kept = source.read_text(encoding="utf-8")
    source.write_text(kept + "# edited\n", encoding="utf-8")
    try:
        outside_code.cache_clear()  # as a new process
        assert before and outside_code(type(decoder("agree"))) not in (before, None)
    finally:
        source.write_text(kept, encoding="utf-8")
    assert outside_code(Mtad) is None, "the code of this project is in every row already"


def test_a_wheel_installed_outside_the_repository_runs_from_another_folder(tmp_path: Path, site: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in SHIPPED:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "run.py"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    shutil.rmtree(source)
    install(next(tmp_path.glob("*.whl")), tmp_path / "site")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = os.pathsep.join([str(tmp_path / "site"), str(site)])

    def called(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = str(tmp_path / "site" / "bin" / "mtad-bench")
    assert "decoder: agree, autoregressive" in called(script, "--help")
    assert "experiments.tasks.sql.Sql" in called("-m", "run", "--cfg=job")
    table = called(script, "limit=1", "max_new_tokens=8", "reference=autoregressive", "results_dir=here")
    assert "tiny, sql, 1 prompts" in table and (elsewhere / "here").is_dir()
    assert "mtad" in called("-m", "scripts.tables", "here", "--out", "out") or (elsewhere / "out").is_dir()
    where = "import run, experiments.code_version as c; print(run.__file__, c.git_version())"
    assert called("-c", where).split() == [str(tmp_path / "site" / "run.py"), "None"]

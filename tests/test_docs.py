"""The documentation holds: its commands are accepted, links and names of files lead somewhere, citations are whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from experiments.composed import configured
from experiments.journal import SCHEMA_VERSION
from tests.doc_commands import FENCE, Command, check, commands, pages
from tests.test_contributing import BLOCK
from tests.toy import ROOT

WRITTEN = re.compile(r"decoder=(floor|served)\b")  # by readers, as their pages tell them; tests of these pages do so
DISTINCT = {
    command.text.removeprefix(".venv/bin/"): command
    for page in pages()
    for command in commands(page)
    if not WRITTEN.search(command.text)
}


def program(command: Command) -> tuple[str, ...]:
    """What a command starts: a module, run.py, or another program."""
    first, *rest = command.words
    name = first.removeprefix(".venv/bin/")
    return (name, *rest[: 1 + (rest[0] == "-m")]) if name == "python" else (name,)


# One of each program or module, so that a renamed one or a parser that broke is seen at once.
FIRST = list({program(command): command for command in reversed(DISTINCT.values())}.values())


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with configured():
        yield


def accepted(named: Iterable[Command]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", list(named), ids=lambda command: f"{command.page}: {command.text}")


@pytest.mark.platform
@accepted(command for command in DISTINCT.values() if command not in FIRST)
def test_every_command_is_accepted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check(command.words)


@accepted(FIRST)
def test_a_command_of_every_program_is_accepted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check(command.words)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python run.py decoder=mtadd", "decoder/mtadd"),
        ("python run.py decoder.gama=3", "gama"),
        ("python run.py -m model=tiny,tinny", "model/tinny"),
        ("make run ARGS='task=sqll'", "task/sqll"),
        ("python -m experiments.replay traced decoder=mtad", "decoder"),
        ("python -m scripts.nothing results", "scripts.nothing"),
        ("python -m scripts.tables results --into tables", "2"),
        ("make nothing", "nothing"),
        ("pip install 'mtad-bench[everything]'", "everything"),
        ("frobnicate now", "frobnicate"),
    ],
)
def test_a_command_that_is_wrong_is_not_accepted(line: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)) as caught:
        check(Command("page", line).words)
    assert said in str(caught.value)


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head).lower()).replace(" ", "-") for head in heads}


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("http://", "https://", "mailto:")):
            yield target


READ = [*pages(), ROOT / "CHANGELOG.md", *sorted((ROOT / "results").rglob("README.md"))]


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:mtad|baselines|experiments|scripts|tests|conf|docs|results)/[\w./*-]+(?:\.\w+|/))`", prose(page)
    )
    written = {name for name, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}  # which it tells to write
    examples = re.compile(r"[A-Z]{4}|results/tiny-")
    assert not [one for one in named if one not in written and not examples.search(one) and not any(ROOT.glob(one))]


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, queue = set[Path](), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page not in seen and page.suffix == ".md" and page.is_file():
            seen.add(page)
            queue += [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
    assert not set(READ) - seen


def test_every_option_of_a_group_is_documented() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    for group in ("decoder", "task", "model", "experiment"):
        names = [file.stem for file in (ROOT / "conf" / group).glob("*.yaml")]
        assert not [name for name in names if f"`{name}`" not in text]


def test_the_citation_file_has_what_its_format_asks_for() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}, "required by CFF 1.2.0"
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert all(author.get("name") or author.get("family-names") for author in cited["authors"])
    for key in ("version", "license"):
        assert f'{key} = "{cited[key]}"' in project
    (paper,) = cited["references"]
    assert paper.keys() >= {"type", "title", "authors"}
    assert [author["family-names"] for author in paper["authors"]] == ["Qin", "Hu", "He", "Prakriya", "Cong", "Sun"]
    assert {one["value"] for one in paper["identifiers"]} == {"arXiv:2407.09722"}


def test_the_changelog_tells_of_this_version_and_of_its_formats() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version and version[1] in text
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Formats"}
    assert f"`schema_version` {SCHEMA_VERSION} " in text

"""The Python API does what the command line does, and leaves nothing behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from baselines.autoregressive import Autoregressive
from baselines.speculative import Speculative
from experiments import api
from experiments.outside import outside_code
from mtad.decoder import Rounds, Text
from mtad.errors import UserError
from mtad.law import Sampling
from mtad.loading import Pair
from mtad.mtad import Mtad
from mtad.session import Reader
from tests.conftest import PythonRun
from tests.toy import ROOT


@dataclass(frozen=True)
class Halting(Speculative):
    """Drafts one token less from round to round."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return (yield from Speculative(max(self.gamma - text.start % 2, 1)).round(text, target, draft))


@pytest.fixture
def names(saved_pair: Path, tmp_path: Path) -> tuple[str, ...]:
    """Overrides: the saved pair, two prompts of the toy task, a folder of results."""
    pair = [f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")]
    toy = (f"hydra.searchpath=[file://{ROOT}/tests/conf]", "task=toy", "limit=2", f"results_dir={tmp_path}")
    return (*toy, *pair)


@pytest.fixture
def pair(saved_pair: Path) -> Pair:
    return api.load_pair("tiny", *[f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")])


def test_a_text_is_generated_again_from_its_seed_by_a_yaml_s_decoder_and_by_an_object(pair: Pair) -> None:
    made = api.decoder("mtad", gamma=3)
    assert made == Mtad(gamma=3)
    first, same, other = (api.generate(pair, made, "w1 w2 w3", 16, seed=seed) for seed in (5, 5, 6))
    assert first.tokens == same.tokens != other.tokens
    assert sum(len(step.tokens) for step in first.rounds) == len(first.tokens) <= 16
    assert first.target.forwards >= len(first.rounds) and first.decode_seconds > 0
    greedy = Sampling(greedy=True)
    by_ids = api.generate(pair, Halting(), pair.tokenizer("w1 w2 w3").input_ids, 16, sampling=greedy)
    assert by_ids.tokens == api.generate(pair, Autoregressive(), "w1 w2 w3", 16, sampling=greedy).tokens


@pytest.mark.platform
def test_a_decoder_of_ones_own_stands_first_in_a_run_like_that_of_the_command_line(
    names: tuple[str, ...], python_run: PythonRun
) -> None:
    found = api.measure(*names, "reference=autoregressive", mine={"mine": Halting(gamma=2)})
    assert list(found.variants["variant"]) == ["mine", "mtad", "autoregressive"]
    assert found.variants["option.gamma"][0] == 2 and found.places[0].parent.name.endswith("toy-mine")
    assert set(found.comparisons["reference"]) >= {"autoregressive"} and {"value", "low"} <= {*found.comparisons}
    code, _, err = python_run(*names, "reference=autoregressive", "name=command")
    assert code == 0, err
    texts = {
        name: {(row["variant"], row["prompt_id"]): row["token_ids"] for row in rows.to_dict("records")}
        for name, rows in api.read(found.places[0].parents[1]).rows.groupby("run")
    }
    ours, theirs = texts[found.places[0].parent.name], texts["command"]
    assert len(theirs) == 4 and theirs.items() <= ours.items(), "what others write does not depend on ours"


@pytest.mark.platform
def test_a_run_that_stands_is_read_and_an_edited_decoder_is_another_run(names: tuple[str, ...]) -> None:
    first = api.measure(*names, "reference=[]", mine={"mine": Halting()})
    again = api.measure(*names, "reference=[]", mine={"mine": Halting()})
    assert first.places == again.places and len(first.rows) == len(again.rows) == 4
    assert list(first.rows["process_id"]) == list(again.rows["process_id"])
    edited = api.measure(*names, "reference=[]", mine={"mine": Halting(gamma=3)})
    assert edited.places != first.places


def test_the_source_of_a_class_in_a_notebook_tells_it_from_what_the_cell_said_before(tmp_path: Path) -> None:
    def cell(body: str) -> str | None:
        file = tmp_path / f"cell{len(body)}.py"  # a notebook's cells have files of their own, as far as Python knows
        file.write_text(f"class Mine:\n    def round(self):\n        {body}\n", encoding="utf-8")
        space: dict[str, type] = {}
        exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), {"__name__": "__main__"}, space)
        return outside_code(space["Mine"])

    assert cell("return 1") == cell("return 1") != cell("return 1 + 1")
    assert cell("return 1\n    lossless = True") != cell("return 1\n    lossless = None"), "not methods alone"
    typed: dict[str, type] = {}
    exec("class Typed:\n    def round(self): pass", {"__name__": "__main__"}, typed)
    other = type("Typed", (), dict(vars(typed["Typed"])))
    assert outside_code(typed["Typed"]) != outside_code(other), "a source that is not to be had is never the same"


def test_mistakes_are_one_line_that_says_what_to_do(pair: Pair) -> None:
    class Bare:
        """No dataclass."""

        joint = drafts = lossless = False

        def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
            raise NotImplementedError

    for mistake, says in [
        (lambda: api.decoder("nothing"), "there is no decoder 'nothing'; there are: autoregressive"),
        (lambda: api.decoder("mtad", gama=1), "decoder mtad has no option 'gama'"),
        (lambda: api.load_pair("nothing"), "model/nothing"),
        (lambda: api.generate(pair, Mtad, "w1"), "Mtad is a class; an object is wanted, as in Mtad()"),  # type: ignore[arg-type]
        (lambda: api.generate(pair, object(), "w1"), "object is no decoder"),  # type: ignore[arg-type]
        (lambda: api.generate(pair, Bare(), "w1"), "Bare is no dataclass"),
        (lambda: api.generate(pair, Mtad(), []), "the prompt has no tokens"),
        (lambda: api.generate(pair, Mtad(), [10**6]), "1000000 is no token id of the pair: whole numbers from 0 to"),
    ]:
        with pytest.raises(UserError, match=re.escape(says)) as raised:
            mistake()
        assert "\n" not in str(raised.value)


@pytest.mark.platform
def test_mistakes_in_what_is_to_be_measured_are_one_line_too(names: tuple[str, ...]) -> None:
    for mistake, says in [
        (lambda: api.measure(*names, mine={"": Mtad()}), "the label of a decoder is a string that is not empty"),
        (lambda: api.measure(*names, mine={"speculative": Mtad()}), "is the name of another decoder"),
        (lambda: api.measure(*names, "limit=none"), "limit must be a whole number"),
        (lambda: api.measure(*names, "experiment=tune", mine={"a": Mtad()}), "tuning is for decoders with a YAML"),
        (lambda: api.measure(*names, "doctor=true"), "doctor=true measures nothing"),
        (lambda: api.read("/nowhere"), "there is no /nowhere"),
    ]:
        with pytest.raises(UserError, match=re.escape(says)) as raised:
            mistake()
        assert "\n" not in str(raised.value)


def test_hydra_is_left_as_it_was_in_another_application_of_it_too(tmp_path: Path) -> None:
    before = HydraConfig.instance().cfg
    with pytest.raises(UserError):
        api.decoder("nothing")
    assert not GlobalHydra.instance().is_initialized() and HydraConfig.instance().cfg is before
    (tmp_path / "app.yaml").write_text("a: 1\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert api.decoder("mtad") == Mtad()
        assert compose("app").a == 1


def test_every_name_that_the_page_explains_is_there_and_every_public_one_is_explained() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^### `(\w+)\(", page, re.MULTILINE))
    public = {name for name, value in vars(api).items() if getattr(value, "__module__", "") == api.__name__}
    assert explained == {name for name in public if name[0].islower() and not name.startswith("_")}

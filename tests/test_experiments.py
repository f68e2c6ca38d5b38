"""The experiments: one YAML for each published table or figure, its command on top; debug=tiny shrinks any of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.settings import read_each
from mtad.errors import UserError
from tests.toy import ROOT, composed

FOLDER = ROOT / "conf" / "experiment"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
PAIRS = {file.stem for file in (ROOT / "conf" / "model").glob("*.yaml")}


def command(name: str) -> list[str]:
    """The overrides of the command that stands in the second line of an experiment."""
    line = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[1]
    found = re.fullmatch(r"# python run\.py (?P<overrides>.+)", line)
    assert found, f"{name}.yaml does not have its command on top"
    return found["overrides"].split()


@pytest.mark.parametrize("name", NAMES)
def test_the_command_on_top_is_of_that_experiment_and_names_what_there_is(name: str) -> None:
    overrides = command(name)
    assert f"experiment={name}" in overrides
    swept = OverridesParser.create().parse_overrides([one for one in overrides if one != "-m"])
    pairs = {pair for one in swept if one.key_or_group == "model" for pair in one.value().list}
    assert pairs <= PAIRS
    assert ("-m" in overrides) == bool(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_debug_tiny_shrinks_every_experiment_onto_the_embedded_pair(name: str) -> None:
    with composed(f"experiment={name}", "debug=tiny") as config:
        (settings,) = read_each(config)
    assert settings.model == "tiny" and settings.experiment == name
    assert settings.name == f"tiny-sql-{name}"
    assert settings.limit == 8 and settings.max_new_tokens == 48


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_on_the_command_line_beats_the_experiment_and_debug(name: str) -> None:
    with composed(f"experiment={name}", "debug=tiny", "task=code", "limit=3") as config:
        (settings,) = read_each(config)
    assert settings.task_name == "code" and settings.limit == 3


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_compares_with_plain_sampling(name: str) -> None:
    with composed(f"experiment={name}", "debug=tiny") as config:
        (settings,) = read_each(config)
    assert "autoregressive" in {variant.label for variant in settings.variants}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("main", "ablation"))])
def test_main_tables_and_ablations_have_a_lossless_joint_rule_and_colder_sampling(name: str) -> None:
    with composed(f"experiment={name}", "debug=tiny") as config:
        (settings,) = read_each(config)
    assert {"block", "autoregressive t=0.7"} <= {variant.label for variant in settings.variants}


@pytest.mark.parametrize("name", [name for name in NAMES if "figure" in OmegaConf.load(FOLDER / f"{name}.yaml")])
def test_what_runs_along_x_is_an_option_that_takes_several_values(name: str) -> None:
    with composed(f"experiment={name}", "debug=tiny") as config:
        (settings,) = read_each(config)
    assert settings.figure
    values = {variant.options[x] for variant in settings.variants if (x := settings.figure["x"]) in variant.options}
    assert len(values) > 2


def test_several_tasks_are_settings_of_their_own_in_the_order_asked_for() -> None:
    with composed("tasks=[code,{task: sql, max_new_tokens: 7}]") as config:
        code, sql = read_each(config)
    assert (code.task_name, sql.task_name) == ("code", "sql")
    assert sql.max_new_tokens == 7 and code.max_new_tokens != 7
    assert (code.name, sql.name) == ("tiny-code-mtad", "tiny-sql-mtad")
    assert sql.config["task"]["max_new_tokens"] == 7 and sql.config["tasks"] is None


def test_an_option_of_one_task_beside_several_is_refused_rather_than_ignored() -> None:
    with composed("tasks=[code,sql]", "task.max_new_tokens=7") as config, pytest.raises(UserError) as caught:
        read_each(config)
    assert str(caught.value).startswith("task.max_new_tokens is of one task, and these are several: ")
    with composed("experiment=main_v4", "task=sql", "task.max_new_tokens=7") as config:
        assert [settings.task_name for settings in read_each(config)] == ["sql"]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("[]", "tasks must be a list"),
        ("sql", "tasks must be a list"),
        ("[3]", "entry of tasks"),
        ("[nope]", "no task 'nope'"),
    ],
)
def test_tasks_that_are_none_are_refused(tasks: str, said: str) -> None:
    with composed(f"tasks={tasks}") as config, pytest.raises(UserError, match=said):
        read_each(config)


@pytest.mark.parametrize("figure", ["{x: gamma}", "{y: gamma, panels: [score]}", "3"])
def test_a_figure_that_says_nothing_to_draw_is_refused(figure: str) -> None:
    with composed(f"figure={figure}") as config, pytest.raises(UserError, match="figure must be"):
        read_each(config)


def test_every_experiment_is_in_the_table_of_the_documentation() -> None:
    text = Path(ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert not [name for name in NAMES if f"`{name}`" not in text]

"""Tasks of lm-eval inside our runs: its prompts, metrics and standard errors; all offline, on rows of our own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from experiments.lm_eval.loaded import LONGEST_TEXT
from experiments.runner import run
from experiments.tasks.lm_eval import LmEval
from mtad.errors import UserError
from tests.toy import ROOT, settings_of

FOLDER = "tests/fixtures/lm_eval"
SUMS = LmEval(name="local_sums", include=FOLDER)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the fixture's own paths begin there


class Parrot(LM):
    """Says one thing, and remembers what it was asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.asked = text, list[str]()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += [request.args[0] for request in requests]
        return [self.text] * len(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def rows_of(task: LmEval, text: str, repeats: int = 1) -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt.id, "repeat": repeat, "text": text}
        for prompt in task.prompts()
        for repeat in range(repeats)
    ]


def test_prompts_metrics_and_standard_errors_are_those_of_lm_eval() -> None:
    parrot = Parrot(" 3 + 4 = 7, so #### 7 or 9")
    manager = TaskManager(include_path=FOLDER, include_defaults=False)
    results = simple_evaluate(parrot, tasks=["local_sums"], task_manager=manager)["results"]["local_sums"]
    assert sorted(prompt.text for prompt in SUMS.prompts()) == sorted(parrot.asked)
    assert (SUMS.stop, SUMS.max_new_tokens) == (("Question:", "\n\n"), 12)
    figures = SUMS.figures(rows_of(SUMS, parrot.text, repeats=2))
    assert set(figures) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    for name, figure in figures.items():
        metric, chain = name.split(",")
        assert figure == {"value": results[name], "stderr": results[f"{metric}_stderr,{chain}"]}
        assert type(figure["value"]) is type(figure["stderr"]) is float
    assert 0 < figures["exact_match,strict-match"]["value"] < 1


def test_a_run_ends_with_lm_evals_figures_in_its_summary(saved_pair: Path, tmp_path: Path) -> None:
    pairs = [f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")]
    task = ["task=lm_eval", "task.name=local_sums", f"task.include={FOLDER}", "limit=2", "reference=[]"]
    run(settings_of(*task, *pairs, f"results_dir={tmp_path}", "sampling=greedy"))
    (file,) = tmp_path.rglob("summary.json")
    summary = json.loads(file.read_text(encoding="utf-8"))
    figures = summary["decoders"]["mtad"]["task_figures"]
    assert list(figures) == ["exact_match,strict-match", "exact_match,flexible-extract"]
    assert {(figure["value"], figure["stderr"]) for figure in figures.values()} == {(0.0, 0.0)}
    assert summary["task_origin"]["id"].endswith(": local_sums") and str(ROOT) not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "\x00", "\ud800 #### \ud800", "#### " + "9" * 5000, "9" * LONGEST_TEXT * 10])
def test_nonsense_scores_zero(text: str) -> None:
    assert set(SUMS.grade(SUMS.prompts()[0], text).values()) == {0.0}


def test_a_task_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(SUMS)).prompts() == SUMS.prompts()


def changed(folder: Path, name: str, **options: object) -> LmEval:
    """The fixture's task with some keys changed, as a task of its own."""
    options = {"include": str(ROOT / FOLDER / "sums.yaml"), "task": name, **options}
    (folder / f"{name}.yaml").write_text(
        "".join(
            f"{key}: {value if str(value).startswith('!') else json.dumps(value)}\n" for key, value in options.items()
        ),
        encoding="utf-8",
    )
    return LmEval(name=name, include=str(folder))


def test_a_text_on_which_a_metric_fails_scores_zero_and_leaves_its_figure_undefined(tmp_path: Path) -> None:
    scorer = "def score(doc, results):\n    return {'exact_match': 1 / (len(results[0]) - 3)}\n"
    (tmp_path / "scorer.py").write_text(scorer, encoding="utf-8")
    task = changed(tmp_path, "failing", process_results="!function scorer.score", filter_list=None)
    assert task.grade(task.prompts()[0], "four") == {"exact_match,none": 1.0}
    assert task.grade(task.prompts()[0], "bad") == {"exact_match,none": 0.0}
    figure = task.figures(rows_of(task, "bad"))["exact_match,none"]
    assert figure == {"value": None, "stderr": None, "reason": "lm-eval cannot score 4 of the texts"}


def test_a_metric_that_cannot_work_here_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    scorer = "def score(doc, results):\n    import a_package_that_is_not_there\n"
    (tmp_path / "absent.py").write_text(scorer, encoding="utf-8")
    with pytest.raises(UserError, match="cannot score absent here: ModuleNotFoundError"):
        changed(tmp_path, "absent", process_results="!function absent.score").check()


METRICS = """
def parity(doc, results):
    return {"odd" if len(doc["question"]) % 2 else "even": 1.0, "marked": float("#" in results[0])}

def distance(doc, results):
    return {"distance": abs(int(results[0].split("#### ")[1]))}

def fragile(items):
    return sum(items) / (min(items) > 0)

def hopeless(items):
    return {"no": "number"}
"""


def with_metrics(folder: Path, name: str, process: str, *metrics: str, aggregation: str = "mean") -> LmEval:
    """The fixture's task with metrics of ours, in each of which less is better."""
    (folder / "metrics.py").write_text(METRICS, encoding="utf-8")
    listed = "".join(
        f"\n  - {{metric: {metric}, aggregation: {aggregation}, higher_is_better: false}}" for metric in metrics
    )
    task = changed(folder, name, process_results=f"!function metrics.{process}", filter_list=None)
    with (folder / f"{name}.yaml").open("a", encoding="utf-8") as file:
        file.write(f"metric_list:{listed}\n")
    return task


def test_a_metric_of_some_documents_has_its_figure_and_never_becomes_the_score(tmp_path: Path) -> None:
    task = with_metrics(tmp_path, "parity", "parity", "even", "odd", "marked")
    task.check()
    graded = {prompt.id: list(task.grade(prompt, "#")) for prompt in task.prompts()}
    first = graded["parity/0"][0]
    assert sorted(graded.values()) == sorted([[], [], [first, "marked,none"], [first, "marked,none"]])
    rows = rows_of(task, "#")
    assert {name: figure["value"] for name, figure in task.figures(rows).items()} == {
        "even,none": 1.0,
        "odd,none": 1.0,
        "marked,none": 1.0,
    }
    without = task.figures([row for row in rows if not graded[row["prompt_id"]]])
    assert without[first] == {"value": None, "stderr": None, "reason": "none of the texts has it"}


def test_a_text_that_cannot_be_scored_does_not_get_the_best_grade(tmp_path: Path) -> None:
    task = with_metrics(tmp_path, "distance", "distance", "distance")
    assert list(task.grade(task.prompts()[0], "#### 3")) == ["distance,none"]
    assert task.grade(task.prompts()[0], "I do not know") == {}
    assert task.grade(task.prompts()[0], "#### 1" + "0" * 400) == {}


def test_an_aggregation_that_fails_on_what_was_written_leaves_a_reason(tmp_path: Path) -> None:
    task = with_metrics(tmp_path, "fragile", "distance", "distance", aggregation="!function metrics.fragile")
    task.check()
    assert task.figures(rows_of(task, "#### 0"))["distance,none"] == {
        "value": None,
        "stderr": None,
        "reason": "lm-eval cannot aggregate distance: ZeroDivisionError: division by zero",
    }


def test_an_aggregation_that_can_never_work_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    task = with_metrics(tmp_path, "hopeless", "distance", "distance", aggregation="!function metrics.hopeless")
    with pytest.raises(UserError, match="hopeless: lm-eval cannot aggregate distance: TypeError"):
        task.check()


def test_a_task_that_begins_the_answer_itself_is_continued_without_a_template(tmp_path: Path) -> None:
    assert SUMS.templated
    assert not changed(tmp_path, "begun", gen_prefix="The answer is").templated


def test_the_origin_tells_data_files_apart(tmp_path: Path) -> None:
    content = (ROOT / FOLDER / "sums.jsonl").read_text(encoding="utf-8")
    hashes = set()
    for name, text in {"a": content, "b": content.replace("7", "8"), "c": content}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rows.jsonl").write_text(text, encoding="utf-8")
        task = changed(folder, "same", dataset_kwargs={"data_files": {"test": str(folder / "rows.jsonl")}})
        hashes.add(task.origin()["sha256"])
    assert len(hashes) == 2


@pytest.mark.parametrize("wish", [{"max_gen_toks": "abc"}, {"max_gen_toks": 0}, {"until": 5}])
def test_generation_options_that_make_no_sense_are_one_line(tmp_path: Path, wish: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="generation_kwargs") as error:
        changed(tmp_path, "odd", generation_kwargs={"until": ["x"], **wish}).check()
    assert "\n" not in str(error.value)


def test_what_a_run_cannot_do_is_refused_in_one_line(tmp_path: Path) -> None:
    group = tmp_path / "group.yaml"
    group.write_text("group: family\ntask: [local_sums]\n", encoding="utf-8")
    gone = {"data_files": {"test": "nowhere.jsonl"}}
    refused = {
        "local_choices is a multiple_choice task": LmEval(name="local_choices", include=FOLDER),
        "which one": LmEval(),
        "there is no such folder": LmEval(name="x", include="nowhere"),
        "family is a group": LmEval(name="family", include=str(tmp_path)),
        "made for num_fewshot=0": LmEval(name="local_sums", include=FOLDER, num_fewshot=2),
        "without a sandbox": changed(tmp_path, "unsafe", unsafe_code=True),
        "cannot load gone": changed(tmp_path, "gone", dataset_kwargs=gone),
    }
    for said, task in refused.items():
        with pytest.raises(UserError, match=said) as error:
            task.check()
        assert "\n" not in str(error.value)


def test_worked_examples_stand_before_the_question(tmp_path: Path) -> None:
    task = changed(tmp_path, "shots", num_fewshot=None, fewshot_split="test")
    for shots in (None, 2):
        told = LmEval(name="shots", include=task.include, num_fewshot=shots).prompts()
        assert {prompt.text.count("Question:") for prompt in told} == {1 + (shots or 0)}


def test_all_references_of_gsm8k_score_one_by_lm_evals_own_task(data: Path, tmp_path: Path) -> None:
    import lm_eval.tasks

    bundled = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"
    files = {"train": str(data / "gsm8k/train.jsonl.gz"), "test": str(data / "gsm8k/test.jsonl")}
    source = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    task = changed(tmp_path, "gsm8k_local", include=str(bundled), **source)
    rows = [json.loads(line) for line in (data / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()]
    gold = {f"gsm8k_local/{number}": row["answer"] for number, row in enumerate(rows)}
    assert len(task.prompts()) == len(gold)
    written = [{"prompt_id": prompt.id, "repeat": 0, "text": " " + gold[prompt.id]} for prompt in task.prompts()]
    assert {figure["value"] for figure in task.figures(written).values()} == {1.0}


def test_a_run_is_named_after_the_task_of_lm_eval() -> None:
    settings = settings_of("task=lm_eval", "task.name=local_sums", f"task.include={FOLDER}")
    assert (settings.task_name, settings.name) == ("lm_eval-local_sums", "tiny-lm_eval-local_sums-mtad")

"""The run as a user meets it: every configuration, every mistake, starting over and going on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from experiments import code_version, plan, process, runner
from experiments.bench import Bench
from experiments.build import build
from experiments.groups import load, names
from experiments.identity import published
from experiments.plan import prepare
from experiments.settings import Settings
from mtad.decoder import Engine, RoundDecoder, WholeDecoder
from mtad.errors import UserError
from mtad.folders import content_hash
from mtad.loading import inspect_pair
from mtad.sources import ModelSpec
from tests.conftest import PythonRun
from tests.toy import ROOT, Toy, composed, settings_of, toy_settings

CONF = ROOT / "conf"


@pytest.fixture
def call(saved_pair: Path, python_run: PythonRun) -> PythonRun:
    """`python run.py` on the saved pair and the toy task, in this process: exit code, stdout, stderr."""
    toy = [f"hydra.searchpath=[file://{ROOT}/tests/conf]", "task=toy"]
    pair = [f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")]
    return partial(python_run, *toy, *pair)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", options("decoder"))
def test_every_decoder_yaml_composes_builds_and_states_the_defaults_of_its_class(name: str) -> None:
    with composed(f"decoder={name}"):
        config = load("decoder", name)
    decoder = build(name, config)
    assert isinstance(decoder, RoundDecoder | WholeDecoder | Engine)
    assert decoder == type(decoder)(), "YAML and class disagree on defaults"
    assert settings_of(f"decoder={name}").variants[0].decoder == decoder


def test_every_model_task_and_sampling_yaml_composes_and_builds() -> None:
    for name in options("model"):
        settings = settings_of(f"model={name}")
        for spec in (settings.target, settings.draft):
            assert isinstance(spec, ModelSpec) and (spec.id or spec.path) and spec.dtype in ("fp32", "bf16", "fp16")
    for name in set(options("task")) - {"lm_eval"}:  # which stands for many tasks
        settings = settings_of(f"task={name}")
        assert settings.task.name == settings.task_name == name
        assert settings.max_new_tokens == settings.task.max_new_tokens >= 1
    for name in options("sampling"):
        assert settings_of(f"sampling={name}").variants[0].sampling.greedy == (name == "greedy")


def test_the_default_run_is_mtad_on_sql_with_the_tiny_pair() -> None:
    settings = settings_of()
    assert (settings.model, settings.task_name, settings.name) == ("tiny", "sql", "tiny-sql-mtad")
    assert [variant.label for variant in settings.variants] == ["mtad", "autoregressive", "speculative"]


def test_references_are_names_mappings_or_all_and_a_copy_of_the_main_decoder_is_dropped() -> None:
    def labels(*overrides: str) -> list[str]:
        return [variant.label for variant in settings_of(*overrides).variants]

    assert labels("reference=[]") == ["mtad"]
    everything = settings_of("reference=all")
    absent = {"mtad", *everything.left_out}
    assert labels("reference=all") == ["mtad", *(name for name in options("decoder") if name not in absent)]
    assert everything.left_out.keys() <= {"vllm"}
    assert labels("reference=[all,{decoder: mtad, tau: 0, label: x}]") == [*labels("reference=all"), "x"]
    assert labels("decoder=speculative") == ["speculative", "autoregressive"]
    assert labels("decoder=speculative", "decoder.gamma=8") == ["speculative", "autoregressive", "speculative-defaults"]
    cold = settings_of("reference=[{decoder: mtad, tau: 0.1, sampling: {temperature: 0.7}, label: cold}]").variants[1]
    assert (cold.label, cold.name, cold.options["tau"], cold.options["gamma"]) == ("cold", "mtad", 0.1, 4)
    assert (cold.sampling.temperature, cold.sampling.top_k) == (0.7, 10)
    greedy = settings_of("decoder.gamma=8", "reference=[{decoder: mtad, sampling: greedy, label: greedy}]").variants
    assert greedy[1].sampling.greedy and (greedy[0].options["gamma"], greedy[1].options["gamma"]) == (8, 4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decoder.gamma=0"], "gamma must be"),
        (["decoder.gamma=2.5"], "gamma must be a whole number"),
        (["decoder.tau=-1"], "tau must be"),
        (["decoder.tau=high"], "tau must be a number, not 'high'"),
        (["decoder.width=0"], "width must be"),
        (["decoder.replacement=7"], "replacement must be true or false"),
        (["decoder.last_token=best"], "last_token must be one of sampled, greedy"),
        (["+decoder.depth=3"], "decoder mtad has no option 'depth'; it has: gamma, width, tau"),
        (["decoder=mmtad", "decoder.reference=least"], "reference must be one of max, own, final"),
        (["sampling.top_p=0"], r"top_p must be in \(0, 1\]"),
        (["sampling.top_p=1.5"], r"top_p must be in \(0, 1\]"),
        (["sampling.temperature=0"], "temperature must be > 0"),
        (["sampling.top_k=-1"], "top_k must be >= 0"),
        (["reference=[nonsense]"], "there is no decoder 'nonsense'; there are: autoregressive, "),
        (["reference=[{decoder: mtad, tau: 0.1}]"], "2 variants are called 'mtad'"),
        (["reference=[{decoder: mtad, depth: 1, label: x}]"], "no option 'depth'"),
        (["reference=[{decoder: mtad, sampling: hot, label: x}]"], "there is no sampling 'hot'"),
        (["reference=[{tau: 1}]"], "a reference is a decoder's name or a mapping"),
        (["reference=7"], "reference must be a list"),
        (["decoder=[mtad,speculative]"], "decoder takes one option"),
        (["limit=0"], "limit must be >= 1"),
        (["limit=many"], "limit must be a whole number"),
        (["repeats=0"], "repeats must be >= 1"),
        (["max_new_tokens=0"], "max_new_tokens must be >= 1"),
        (["seed=x"], "seed must be a whole number"),
        ([f"seed={2**63}"], r"seed must be >= 0 and < 2\^63"),
        (["seed=-1"], r"seed must be >= 0 and < 2\^63"),
        (["~limit"], "the configuration lacks limit"),
        (["~sampling"], "the configuration lacks sampling"),
        (["model.target=null"], "model.target must be a mapping, not None"),
        (["~model.draft"], "model must have a draft"),
        (["name="], "name must be the name of one folder"),
        (["results_dir="], "results_dir must name a folder"),
        (["fresh=perhaps"], "fresh must be true or false"),
        (["resume=yes"], "resume must be null or mixed"),
        (["name=../elsewhere"], "name must be the name of one folder"),
        (["energy=maybe"], "energy must be true or false"),
        (["meter.seconds=-1"], "seconds must be"),
        (["meter.seconds=0"], "seconds must be"),
        (["meter.blocks=0"], "blocks must be"),
        (["meter.hertz=1"], "hertz must be"),
        (["+meter.watts=1"], "meter has no option 'watts'"),
        (["strict=7"], "strict must be true or false"),
        (["noninferiority_margin=0"], "noninferiority_margin must be > 0"),
        (["noninferiority_margin=wide"], "noninferiority_margin must be a number"),
        (["judge=7"], "judge must be a mapping"),
        (["model.target.size=7", "model.target.path=x"], "target"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(overrides: list[str], message: str) -> None:
    overrides = [f"+{key}" if key.startswith("model.target.size") else key for key in overrides]
    with pytest.raises(UserError, match=message) as caught:
        settings_of(*overrides)
    assert "\n" not in str(caught.value)


def test_mistakes_end_in_exit_code_1_one_line_and_no_results(call: PythonRun, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for override, message in {
        "decoder.gamma=0": "gamma must be",
        "dtype=fp8": "unknown dtype 'fp8'",
        "model.target.path=no/such": "there is no such folder",
        "device=cuda:99": "device=cuda:99",
        "max_new_tokens=60": "prompt toy/0 has 5 tokens; of the pair's 64 positions max_new_tokens=60 leaves 4",
    }.items():
        code, out, err = call(f"results_dir={results}", override)
        assert (code, out) == (1, "")
        assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not results.exists()


def test_a_run_writes_its_four_files_and_a_complete_one_is_shown_again(
    call: PythonRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("limit=3", "results_dir=here")
    assert code == 0 and all(word in out for word in ("mtad", "autoregressive", "speculative", "speed-up"))
    (folder,) = (tmp_path / "here" / "target+draft-toy-mtad").iterdir()
    assert [path.name for path in tmp_path.iterdir()] == ["here"], "something was written outside results_dir"
    files = {name: (folder / name).read_text() for name in ("samples.jsonl", "summary.json", "environment.json")}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    summary, environment = (json.loads(files[name]) for name in ("summary.json", "environment.json"))
    rows = [json.loads(line) for line in files["samples.jsonl"].splitlines()]
    assert {document["schema_version"] for document in (config, summary, environment, *rows)} == {1}
    assert {document["run_id"] for document in (config, summary, environment, *rows)} == {folder.name}
    weights = summary["weights"]["target"]
    assert (weights["folder"], weights["dtype"], summary["model"]) == ("target", "float32", "target+draft")
    assert config["model"]["target"]["path"] == f"target@sha256:{weights['sha256']}"
    assert environment["weights"] == summary["weights"]
    assert str(tmp_path) not in "".join(files.values()) + (folder / "config.yaml").read_text()
    monkeypatch.setattr(process, "Bench", None)  # weights must not be loaded again
    code, again, err = call("limit=3", "results_dir=here")
    assert (code, again) == (0, out) and "complete already" in err
    assert (folder / "samples.jsonl").read_text() == files["samples.jsonl"]


def test_the_run_id_depends_on_what_determines_outputs_alone(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_id(*overrides: str, results: Path = tmp_path) -> str:
        return prepare(toy_settings(saved_pair, results, *overrides)).id

    same = run_id()
    assert same == run_id(results=tmp_path / "other") == run_id("name=x") == run_id("fresh=true", "resume=mixed")
    assert same == run_id("device=cpu", "max_new_tokens=12", "reference=[autoregressive, {decoder: speculative}]")
    first = "{decoder: mtad, tau: 1, label: x}"
    assert run_id(f"reference=[{first}, speculative]") == run_id(
        f"reference=[speculative, {first.replace('1', '1.0')}]"
    )
    changes = ["seed=1", "repeats=2", "limit=2", "max_new_tokens=5", "ignore_eos=true", "dtype=bf16", "decoder.tau=0.4"]
    changes += ["reference=[]", "sampling=greedy", "task.size=5", f"model.target.path={saved_pair / 'draft'}"]
    assert len({same, *map(run_id, changes)}) == len(changes) + 1
    blueprint = inspect_pair(*(ModelSpec(path=str(saved_pair / role)) for role in ("target", "draft")))
    monkeypatch.setattr(plan, "inspect_pair", lambda *_: replace(blueprint, eos=frozenset({1, 5})))
    assert same != run_id(), "the end tokens decide where a text ends"


def test_changed_code_is_refused_until_the_user_decides(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def settings(*overrides: str) -> Settings:
        return toy_settings(saved_pair, tmp_path, "limit=2", "reference=[]", *overrides)

    runner.run(settings())
    (journal,) = tmp_path.glob("*/*/samples.jsonl")
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    for module in (code_version, process):
        monkeypatch.setattr(module, "code_hash", lambda: "changed")
    with pytest.raises(UserError, match=r"the code has changed.*fresh=true.*resume=mixed"):
        runner.run(settings())
    capsys.readouterr()
    runner.run(settings("resume=mixed"))
    assert "MIXED: rows of 2 versions of the code" in capsys.readouterr().out
    assert len(journal.read_text().splitlines()) == 2
    for module in (code_version, process):
        monkeypatch.setattr(module, "code_hash", lambda: "changed again")
    runner.run(settings())  # nothing is missing: a complete run is shown whatever the code is now
    assert "MIXED: rows of 2 versions of the code" in capsys.readouterr().out
    for module in (code_version, process):
        monkeypatch.setattr(module, "code_hash", lambda: "changed")
    runner.run(settings("fresh=true"))
    assert {json.loads(line)["code"] for line in journal.read_text().splitlines()} == {"changed"}
    assert len(json.loads((journal.parent / "environment.json").read_text())["processes"]) == 1


def test_an_interrupted_run_says_how_to_go_on(call: PythonRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "rows", interrupted)
    code, _, err = call(f"results_dir={tmp_path}")
    assert code == 130 and "the same command resumes" in err
    code, _, err = call(f"results_dir={tmp_path}", "fresh=true")
    assert code == 130 and "the same command without fresh=true resumes" in err


def test_the_name_is_that_of_the_models_that_are_used(saved_pair: Path) -> None:
    other = settings_of(f"model.draft.path={saved_pair / 'draft'}", "model.target.path=mtad/tiny/../tiny/target")
    assert (other.model, other.name) == ("target+draft", "target+draft-sql-mtad")
    hub = settings_of("model=llama2-7b", "model.draft.id=some/small")
    assert hub.model == "Llama-2-7b-hf+small"
    assert settings_of("model.draft.path=mtad/tiny/draft", "model.target.dtype=bf16").model == "tiny"


def test_results_dir_takes_a_tilde() -> None:
    assert settings_of("results_dir='~/runs'").results_dir == Path.home() / "runs"


def test_no_absolute_path_of_an_option_is_published(tmp_path: Path) -> None:
    (tmp_path / "grammar").write_text("a")
    safe = published({"grammar": str(tmp_path / "grammar"), "more": ["~/none", 1], "path": "x/gone", "rule": "max"})
    assert safe["grammar"] == f"grammar@sha256:{content_hash(tmp_path / 'grammar')}"
    assert (safe["more"], safe["path"], safe["rule"]) == (["none", 1], "gone", "max")


def test_prompts_of_one_id_are_refused(saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = Toy().prompts()[:1] * 2
    monkeypatch.setattr(Toy, "prompts", lambda _: twice)
    with pytest.raises(UserError, match="task toy has 2 prompts with the id 'toy/0'"):
        prepare(toy_settings(saved_pair, tmp_path))


def test_the_script_ends_in_one_line_and_answers_help(tmp_path: Path) -> None:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / "run.py", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    wrong = script("decoder.gamma=0")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
    assert wrong.stderr.startswith("error: ") and "gamma must be" in wrong.stderr
    shown, helped = script("--cfg", "job"), script("--help")
    assert shown.returncode == helped.returncode == 0
    assert yaml.safe_load(shown.stdout)["reference"] == ["autoregressive", "speculative"]
    assert "decoder: autoregressive, beam_sample" in helped.stdout and "max_new_tokens: null" in helped.stdout
    assert not list(tmp_path.iterdir())


def test_a_sweep_keeps_to_the_results_folder(call: PythonRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, _ = call("-m", "limit=1", "reference=[]", "results_dir=here", "decoder.tau=0.1,0.9")
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["target+draft-toy-mtad"]
    assert len(list((tmp_path / "here" / "target+draft-toy-mtad").iterdir())) == 2


def test_groups_are_seen_through_the_search_path() -> None:
    with composed():
        assert "toy" in names("task") and "sql" in names("task")
        assert load("task", "toy")["_target_"] == "tests.toy.Toy"

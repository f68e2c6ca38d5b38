"""Secrets, users and their folders reach no file that a run writes, and what is data comes through whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.identity import published
from experiments.redact import redact
from tests.nvml import UUIDS, nvml_environment
from tests.toy import ROOT, Toy

USER = "mallory7"
# Made up, in the shapes that real ones have; put together here so that no scanner takes them for real.
HF_TOKEN = "hf" + "_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
WANDB_KEY = "0123456789abcdef" * 2 + "01234567"
ODD_SECRET = "correct-horse-battery"
OVERRIDE_KEY = "override-key-4711"
OVERRIDE_TOKEN = "override-token-4712"
TASK_PASSWORD = "task-password-4713"
HOMES = "/" + "home"  # not spelled out: no file of ours names a folder of one machine
SECRETS = (HF_TOKEN, WANDB_KEY, ODD_SECRET, OVERRIDE_KEY, OVERRIDE_TOKEN, TASK_PASSWORD)


@dataclass(frozen=True)
class Sourced(Toy):
    """The toy task with options that should not be published as they are."""

    source: str = ""
    password: str = ""


@dataclass(frozen=True)
class Run:
    """A finished run of run.py: all that it wrote."""

    files: Mapping[str, bytes]
    printed: str
    config: str


@pytest.fixture(scope="module")
def run(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run.py` and the cost study in the home of a made-up user, all passes, secrets wherever a user might put one."""
    machine = tmp_path_factory.mktemp("machine")
    home = machine / "home" / USER
    models, conf = home / "models", home / "conf"
    shutil.copytree(saved_pair, models)
    (conf / "task").mkdir(parents=True)
    (conf / "task" / "sourced.yaml").write_text("_target_: tests.test_secrets.Sourced\nsource: ''\npassword: ''\n")
    secret = {"HF_TOKEN": HF_TOKEN, "WANDB_API_KEY": WANDB_KEY, "ODD_SECRET": ODD_SECRET}
    where = {"HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": f"{USER}-laptop", "OMP_NUM_THREADS": "1"}
    overrides = [
        *(f"hydra.searchpath=[file://{conf}]", "task=sourced", f"task.source={models / 'target' / 'config.json'}"),
        *(f"task.password={TASK_PASSWORD}", f"model.target.path={models / 'target'}"),
        *(f"model.draft.path={models / 'draft'}", f"results_dir={home / 'results'}", "name=here", "limit=2"),
        *(f"+wandb.api_key={OVERRIDE_KEY}", f"+hub.token={OVERRIDE_TOKEN}", f"+notes.cache={home}/cache"),
        *(f"+notes.seen='{home} and https://{USER}:{ODD_SECRET}@example.org/x'", f"+notes.env={HF_TOKEN}"),
        f"reference=[autoregressive,{{decoder: speculative, label: '{models}/{WANDB_KEY}'}}]",
    ]
    overrides += [
        *(f"judge.path={models / 'target'}", "energy=true", f"meter.gpus=[{UUIDS[0]}]", "meter.rapl=null"),
        *("meter.seconds=0.3", "meter.idle_seconds=0.5", "meter.blocks=1"),
    ]
    printed = ""
    for command in (["run.py"], ["-m", "experiments.cost", "cost.repeats=1", "cost.nodes=[1,2,5]", "cost.batches=[1]"]):
        done = subprocess.run(
            [sys.executable, *command, *overrides],
            cwd=ROOT,
            env={**nvml_environment(machine), **secret, **where},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    files = {path.name: path.read_bytes() for path in (home / "results").rglob("*") if path.is_file()}
    assert {"config.yaml", "environment.json", "samples.jsonl", "summary.json"} <= files.keys()
    assert {"judge.jsonl", "energy.jsonl", "cost.json"} <= files.keys()
    return Run(files, printed, files["config.yaml"].decode())


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_in_any_file_or_in_what_is_printed(run: Run, secret: str) -> None:
    assert [name for name, content in run.files.items() if secret.encode() in content] == []
    assert secret not in run.printed


@pytest.mark.parametrize("private", [USER, f"{HOMES}/", str(ROOT)])
def test_no_user_and_no_absolute_path_is_in_any_file(run: Run, private: str) -> None:
    assert [name for name, content in run.files.items() if private.encode() in content] == []


def test_what_determines_the_run_is_still_in_its_configuration(run: Run) -> None:
    for line in ("max_new_tokens: null", "last_token: sampled", "seed: 0", "temperature: 1.0", "limit: 2"):
        assert line in run.config, line
    assert "path: target@sha256:" in run.config and "source: config.json@sha256:" in run.config
    assert "api_key: <redacted>" in run.config


def test_data_comes_through_whole() -> None:
    data: dict[str, Any] = {
        **{"max_new_tokens": 3, "token_ids": [1, 2], "tokens": ["a"], "eos_token_id": 2, "eos_token": "</s>"},
        **{"last_token": "sampled", "joules_per_token": 1.5, "acceptance_rate": None, "use_auth": True, "token": 7},
        **{"git": "0123456789abcdef" * 2 + "01234567-dirty", "path": "target@sha256:" + "ab" * 32, "sort_key": "name"},
        **{"uuid": "GPU-1a2b0000-aaaa-4000-8000-000000000000", "id": "some/model", "prompt_id": "toy/0"},
        **{"stop": ["</s>", "[/INST]", "\n\n", "//", "/* x */", "</a></b>"], "api_key": None, "password": ""},
    }
    assert redact(data) == data


@pytest.mark.parametrize(
    "text",
    [
        "tokens/s of 1/2 and/or ~5/10",
        "no interval: one prompt",
        "NVML: Not Supported",
        "/sys/class/powercap/intel-rapl:0/energy_uj: permission denied",
        "this system has no /proc/stat",
        "max_new_tokens=60 leaves 4, last_token=sampled, token=5",
        "unexpected token: x",
        "https://arxiv.org/abs/2407.09722",
    ],
)
def test_reasons_without_anything_private_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"cannot read {HOMES}/alice/models/x: denied", "cannot read x: denied"),
        ("cannot read '/data/my models/x y'", "cannot read 'x y'"),
        (f"{HOMES}/alice", "~"),
        ("error:/srv/a/b:12", "error:b:12"),
        (f"-I{HOMES}/alice/include", "-Iinclude"),
        ("in ~alice/runs and ~/x/y", "in runs and y"),
        (f"file://{HOMES}/alice/x", "x"),
        (f"/sys/..{HOMES}/alice/x", "x"),
        ("https://me:pass@example.org/x?token=abc&n=2", "https://<redacted>@example.org/x?token=<redacted>&n=2"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: <redacted> <redacted>"),
        ("{'api_key': 'abc', \"password\": \"d e\"}", "{'api_key': <redacted>, \"password\": <redacted>}"),
        ("--hub-token=abc wandb.apiKey=def", "--hub-token=<redacted> wandb.apiKey=<redacted>"),
        (f"401 for {HF_TOKEN}", "401 for <redacted>"),
    ],
)
def test_paths_and_secrets_inside_a_text_are_taken_out(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_values_of_secret_keys_are_taken_out_however_deep() -> None:
    hidden = {
        "credentials": {"a": ["b", {"c": 5}], "on": True},
        "accessToken": "x",
        "api_tokens": ["y"],
        "pin_secret": 1,
    }
    assert redact(hidden) == {
        "credentials": {"a": ["<redacted>", {"c": "<redacted>"}], "on": True},
        "accessToken": "<redacted>",
        "api_tokens": ["<redacted>"],
        "pin_secret": "<redacted>",
    }


def test_what_the_environment_calls_secret_is_found_in_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_SERVICE_PASS", "hunter2/hunter2")
    monkeypatch.setenv("ODD_KEY", "true")  # too short to be looked for
    assert redact({"reason": "login with hunter2/hunter2 failed"}) == {"reason": "login with <redacted> failed"}
    assert redact("true") == "true"


def test_a_user_is_taken_out_as_a_word_and_a_short_name_only_where_it_is_no_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USER", USER)
    monkeypatch.setenv("LOGNAME", "max")
    assert redact(f"{USER}'s folder ../{USER}/x, max@host") == "<private>'s folder ../<private>/x, <private>@host"
    assert redact({"reference": "max", "name": "mallory70"}) == {"reference": "max", "name": "mallory70"}


def test_a_home_is_published_without_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "eve"))
    assert published({"cache": str(tmp_path / "eve"), "other": f"{HOMES}/alice", "more": "~"}) == {
        "cache": "~",
        "other": "~",
        "more": "~",
    }


def test_long_texts_take_no_time_to_speak_of() -> None:
    for text in ("a" * 10**5, "a.b-" * 25_000, "/a" * 50_000, "x=" * 50_000, "'/" * 50_000, "eyJ" * 30_000):
        redact(text)  # a pattern that backtracks would take minutes


def test_redaction_gives_json_data() -> None:
    value = {"a": (1, 2.5, None, True), 5: "x"}
    assert json.loads(json.dumps(redact(value))) == {"a": [1, 2.5, None, True], "5": "x"}

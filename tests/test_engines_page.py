"""The engine that docs/engines.md prints works as printed, against a server that continues token ids."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from baselines.autoregressive import Autoregressive
from experiments import api
from experiments.composed import composed, configured
from experiments.settings import read_settings
from mtad.decoder import Engine
from mtad.errors import UserError
from mtad.law import Sampling
from mtad.loading import Pair
from tests.toy import ROOT

pytestmark = pytest.mark.platform

BLOCK = re.compile(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GREEDY = Sampling(greedy=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path with the files that the page prints."""
    blocks = dict(BLOCK.findall((ROOT / "docs" / "engines.md").read_text(encoding="utf-8")))
    assert set(blocks) == {"my_package/served.py", "my_package/conf/decoder/served.yaml"}
    for name, text in blocks.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@contextmanager
def server(pair: Pair, asked: list[dict[str, Any]]) -> Iterator[str]:
    """The address of a server that continues greedily with the pair's target, past every end and limit."""

    class Continues(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server calls
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            prompt = asked[-1]["prompt"]
            tokens = api.generate(pair, Autoregressive(), prompt, asked[-1]["max_new_tokens"], sampling=GREEDY).tokens
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"tokens": [*tokens, 0, 0], "prefill_seconds": 0.0}).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            return None

    listening = HTTPServer(("127.0.0.1", 0), Continues)
    thread = Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/generate"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def made(package: Path, *overrides: str) -> Any:
    """The decoder as the command line makes it."""
    with configured():
        path = f"hydra.searchpath=[file://{package / 'my_package' / 'conf'}]"
        return read_settings(composed("config", [path, "decoder=served", *overrides])).variants[0].decoder


def test_the_adapter_s_texts_are_cut_counted_and_timed_like_others(package: Path, saved_pair: Path) -> None:
    pair = api.load_pair("tiny", *[f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")])
    asked: list[dict[str, Any]] = []
    with server(pair, asked) as url:
        served = made(package, f"decoder.url={url}")
        assert isinstance(served, Engine)
        output = api.generate(pair, served, "w1 w2 w3", 12, seed=3, sampling=GREEDY)
        again = api.generate(pair, served, "w1 w2 w3", 12, seed=4, sampling=Sampling(temperature=0.5, top_k=7))
    ours = api.generate(pair, Autoregressive(), "w1 w2 w3", 12, sampling=GREEDY)
    assert output.tokens == ours.tokens and output.finish == ours.finish, "what it said past the end is cut"
    assert output.target.seconds is None and output.decode_seconds > 0 and output.steps is None
    assert again.tokens == ours.tokens
    first, second = asked
    assert (first["temperature"], second["temperature"], second["top_k"]) == (0.0, 0.5, 7)
    assert first["max_new_tokens"] == 12 and first["seed"] != second["seed"]


def test_a_server_that_is_not_there_is_one_line(package: Path, saved_pair: Path) -> None:
    pair = api.load_pair("tiny", *[f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")])
    served = made(package, "decoder.url=http://127.0.0.1:9/generate", "decoder.timeout_seconds=2")
    with pytest.raises(UserError, match=r"decoder served: http://127.0.0.1:9/generate does not answer: .*start the"):
        api.generate(pair, served, "w1", 4)


def test_it_is_written_as_the_project_is(package: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(package)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""What only a GPU can show: phases by CUDA events, joules by the real NVML, the same tokens as on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import runner
from mtad.clock import Span, mark
from mtad.meter.meter import open_meter
from mtad.meter.visible import torch_uuids
from tests.toy import settings_of, toy_settings

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def rows_of(results: Path) -> list[dict[str, Any]]:
    (journal,) = results.glob("*/*/samples.jsonl")
    return [json.loads(line) for line in journal.read_text().splitlines()]


def multiply(times: int) -> None:
    x = torch.randn(4096, 4096, device=CUDA)
    for _ in range(times):
        x = torch.nn.functional.normalize(x @ x)


def test_a_span_of_the_device_holds_work_that_the_host_does_not_wait_for() -> None:
    multiply(5)
    torch.cuda.synchronize()
    start = mark(CUDA)
    multiply(50)
    short, end = mark(CUDA), mark(CUDA)
    torch.cuda.synchronize()
    assert Span(start, end).seconds > 0.005 > Span(short, end).seconds


def test_phases_lie_within_the_decoding(tmp_path: Path) -> None:
    runner.run(settings_of("limit=4", "device=cuda", "energy=false", f"results_dir={tmp_path}"))
    for row in rows_of(tmp_path):
        seconds = row["seconds"]
        inner = [seconds[phase] for phase in ("target", "draft", "commit")]
        assert min(inner) >= 0 and sum(inner) <= seconds["decode"]
        assert seconds["target"] > 0.1 * seconds["decode"]


def test_tokens_on_the_gpu_are_those_on_the_cpu(saved_pair: Path, tmp_path: Path) -> None:
    texts = []
    for device in ("cpu", "cuda"):
        runner.run(toy_settings(saved_pair, tmp_path / device, f"device={device}", "energy=false"))
        rows = rows_of(tmp_path / device)
        texts.append({(row["variant"], row["prompt_id"]): row["token_ids"] for row in rows})
    assert texts[0] == texts[1]


def test_the_real_counter_and_the_real_trace_agree() -> None:
    meter = open_meter(torch_uuids=torch_uuids(CUDA), rapl=None)
    multiply(200)  # the counter and the trace take time to reach a steady power
    with meter.window() as window:
        while window.elapsed < 5:
            multiply(50)
            torch.cuda.synchronize()
    (reading,) = window.record.devices
    assert reading.method == "nvml_total_energy", reading.method_reason
    assert reading.joules is not None and reading.trace_joules is not None
    assert reading.joules == pytest.approx(reading.trace_joules, rel=0.1)
    assert 5 * 30 < reading.joules < 6 * 1200

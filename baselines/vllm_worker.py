"""The other end of `baselines.vllm`: loads a vLLM, then writes one text a line of JSON, until its input ends.

The first line says what to load and is answered by the version of vLLM. Whatever vLLM prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter
from typing import Any


def main() -> None:
    """Serve; the input ends with the process that asks, however that ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from vllm import LLM, SamplingParams, __version__  # type: ignore[import-not-found,unused-ignore]

    load = json.loads(sys.stdin.readline())
    llm = LLM(
        model=load["target"],
        revision=load["target_revision"],
        dtype=load["dtype"],
        max_model_len=load["max_model_len"],
        gpu_memory_utilization=load["memory"],
        enable_prefix_caching=True,
        speculative_config={
            "method": "draft_model",
            "model": load["draft"],
            "revision": load["draft_revision"],
            "num_speculative_tokens": load["gamma"],
        },
    )
    _say(answers, {"version": __version__})
    for line in sys.stdin:
        request = json.loads(line)
        prompt = request.pop("prompt")
        llm.reset_prefix_cache()  # or a prompt written to before would cost no prefill
        started = perf_counter()
        if len(prompt) > 1:
            _write(llm.llm_engine, prompt[:-1], SamplingParams(max_tokens=1))
        prefill = perf_counter() - started
        # End tokens are only those asked for, whatever the checkpoint's own.
        params = SamplingParams(**request, ignore_eos=True, detokenize=bool(request["stop"]))
        tokens, lengths = _write(llm.llm_engine, prompt, params)
        _say(answers, {"tokens": tokens, "lengths": lengths, "prefill_seconds": prefill})


def _write(engine: Any, prompt: list[int], params: Any) -> tuple[list[int], list[int]]:
    """The new tokens, and how many there were after each step of the engine that brought some."""
    engine.add_request("text", {"prompt_token_ids": prompt}, params)
    tokens, lengths = list[int](), list[int]()
    while engine.has_unfinished_requests():
        for output in engine.step():
            if len(output.outputs[0].token_ids) > len(tokens):
                tokens = list(output.outputs[0].token_ids)
                lengths.append(len(tokens))
    return tokens, lengths


def _say(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

"""Recorded forwards on a CPU use rearranged weights; the model keeps its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mtad import packed
from mtad.model import CausalModel
from mtad.packed import PackedLinear, pack, swapped
from mtad.recorded import Traced
from mtad.serving import serve
from mtad.session import Session
from mtad.tree import Tree
from tests.fakes import llama, opt


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SMALLEST", 1)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("make", [llama, opt])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_laws_are_those_of_the_model(make: Callable[[], CausalModel], dtype: torch.dtype) -> None:
    lm = make().lm.to(dtype)
    laws = []
    for engine in ("eager", "recorded"):
        model = CausalModel(lm, 60, engine=engine)  # type: ignore[arg-type]
        session = Session(model)
        session.open(list(range(12)))
        laws.append(serve([session.read(Tree.of_paths([(5, 6), (5, 7, 8), (9,)]))])[0].logp)
        assert model.fallback is None
    assert isinstance(model._forward, Traced) and any(model._forward._packed.values())
    assert abs(laws[0] - laws[1]).max() < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.usefixtures("small")
def test_the_model_itself_is_as_before() -> None:
    lm = opt().lm
    before = {name: id(module) for name, module in lm.named_modules()}
    keys = lm.state_dict().keys()
    with swapped(pack(lm)):
        assert isinstance(lm.lm_head, PackedLinear)
        assert not any(type(module) is nn.Linear for module in lm.modules())
    assert {name: id(module) for name, module in lm.named_modules()} == before and lm.state_dict().keys() == keys


@pytest.mark.usefixtures("small")
def test_a_build_of_pytorch_without_these_operations_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("unknown operation mkldnn::_linear_pointwise")

    packed._works.cache_clear()
    monkeypatch.setattr(packed, "_linear", missing)
    assert pack(llama().lm) == {}
    packed._works.cache_clear()


@pytest.mark.usefixtures("small")
def test_a_model_that_would_take_too_much_memory_twice_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = llama().lm
    assert any(pack(lm).values())
    monkeypatch.setattr(packed, "LARGEST_BYTES", 1000)
    assert pack(lm) == {}

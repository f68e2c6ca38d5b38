"""What was published, as it is entered: it names things that exist, and in no more than a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.report.published import NULLS, Published, pairs, published, published_for
from tests.made_rows import sampling

CONF = Path(__file__).parents[1] / "conf"


def test_published_entries_name_what_this_project_has() -> None:
    for one in published():
        assert all((CONF / "model" / f"{model}.yaml").exists() and model in pairs() for model in one.models), one.id
        assert all((CONF / "task" / f"{task}.yaml").exists() for task in one.tasks), one.id
        for decoder, options in ((one.decoder, one.options), (one.reference, one.reference_options)):
            if decoder:
                assert set(options) <= set(OmegaConf.load(CONF / "decoder" / f"{decoder}.yaml")), one.id
        for stated in (one.sampling, one.reference_sampling):
            assert set(stated) <= set(OmegaConf.load(CONF / "sampling" / "default.yaml")), one.id
        assert one.metric in NULLS or one.reference is None, one.id
        assert one.source and one.version and one.value == one.value, one.id
    assert len({one.id for one in published()}) == len(published())


def test_the_pairs_are_those_of_the_configuration() -> None:
    for name, pair in pairs().items():
        config: Any = OmegaConf.load(CONF / "model" / f"{name}.yaml")
        assert {role: config[role].id for role in pair} == pair


def test_no_claim_is_longer_than_a_sentence() -> None:
    for one in published():
        assert one.claim.endswith(".") and ". " not in one.claim and "\n" not in one.claim, one.claim
        assert len(one.claim) <= 110, one.claim


def test_the_experiment_of_a_claim_measures_both_its_decoders() -> None:
    for one in published():
        config: Any = OmegaConf.load(CONF / "experiment" / f"{one.experiment}.yaml")
        main = [default["override /decoder"] for default in config.defaults if "override /decoder" in default]
        named = {entry if isinstance(entry, str) else entry.decoder for entry in config.reference} | set(
            main or ["mtad"]
        )
        assert {one.decoder, one.reference or one.decoder} <= named, one.id


def test_a_cell_has_the_authors_figure_only_with_their_options() -> None:
    theirs = {"gamma": 4, "width": 4, "tau": 0.5, "replacement": True, "last_token": "sampled"}
    found = published_for("llama3.1-8b", "spider", "mtad", "score", theirs)
    assert isinstance(found, Published) and found.value == 0.47 and "examples.md" in found.source
    assert published_for("llama3.1-8b", "spider", "mtad", "score", {**theirs, "tau": 0.3}) is None
    assert published_for("llama3.1-8b", "spider", "mtad", "score", theirs, sampling(temperature=0.7)) is None
    assert published_for("tiny", "sql", "mtad", "score", theirs) is None

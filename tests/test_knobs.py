"""Knobs: which trials tuning draws from the values of options, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines.lenience import Lenience
from baselines.prompt_lookup import PromptLookup
from experiments import runner
from experiments.knobs import find_trials
from experiments.tune import plan_trials, tuned_variants
from mtad.errors import UserError
from tests.toy import settings_of, toy_settings
from tests.tuning import MTAD, SPECULATIVE, TUNE, tune, variant


def test_trials_are_the_options_as_asked_for_then_others_without_repetition() -> None:
    knobs = {"gamma": [1, 2, 4, 8], "tau": [0.1, 0.5, 1], "divisor": ["optimal"]}
    search = find_trials(tune(knobs, trials=5), MTAD, seed=0)
    assert [trial.label for trial in search.trials] == [f"mtad#{number}" for number in range(1, 6)]
    assert search.trials[0].decoder == MTAD.decoder
    assert len({trial.decoder for trial in search.trials}) == 5
    assert set(search.knobs) == {"gamma", "tau"}, "an option of other decoders is no knob of this one"
    assert all(trial.options["gamma"] in knobs["gamma"] and trial.options["width"] == 8 for trial in search.trials)
    again, other = (find_trials(tune(knobs, trials=5), MTAD, seed=seed) for seed in (0, 1))
    assert again == search != other


def test_every_decoder_gets_as_many_trials_unless_it_has_fewer_combinations() -> None:
    settings = tune({"gamma": [1, 2, 4], "tau": [0.2, 0.4]}, trials=6)
    mtad, speculative = (find_trials(settings, variant, 0) for variant in (MTAD, SPECULATIVE))
    assert (len(mtad.trials), mtad.combinations) == (6, 6)
    assert sorted(trial.options["gamma"] for trial in speculative.trials) == [1, 2, 4]
    assert (len(speculative.trials), speculative.combinations, speculative.refused) == (3, 3, 0)


def test_combinations_that_a_decoder_refuses_are_not_drawn_and_are_counted() -> None:
    lookup = variant(PromptLookup(), "prompt_lookup")
    search = find_trials(tune({"min_ngram": [1, 2, 3], "max_ngram": [1, 2, 3]}, trials=99), lookup, 0)
    assert (search.combinations, search.refused, len(search.trials)) == (9, 3, 6)
    with pytest.raises(UserError, match=r"min_ngram=9 is possible in no combination: .*ngram"):
        find_trials(tune({"min_ngram": [1, 9], "max_ngram": [1, 2, 3]}), lookup, 0)


@pytest.mark.parametrize("innocent", [[0.1], [0.1, 0.3, 0.5, 0.7, 0.9]])
def test_the_value_that_is_blamed_is_the_one_that_the_error_is_about(innocent: list[float]) -> None:
    for knobs in ({"tau": innocent, "gamma": [0]}, {"gamma": [0], "tau": innocent}):
        with pytest.raises(UserError, match=r"^knobs: gamma=0 is possible in no combination: decoder mtad: gamma must"):
            find_trials(tune(knobs), MTAD, 0)
    # A decoder's name in the message does not accuse the option of that name.
    lenience = variant(Lenience(), "lenience")
    with pytest.raises(UserError, match=r"^knobs: gamma=0 is possible"):
        find_trials(tune({"lenience": {"lenience": [0.5], "gamma": [0]}}), lenience, 0)


def test_knobs_by_decoder_are_all_of_its_knobs() -> None:
    settings = tune({"width": [2, 4], "mtad": {"tau": [0.1, 0.9]}, "speculative": {}})
    assert settings.of(MTAD) == {"tau": [0.1, 0.9]}
    assert settings.of(SPECULATIVE) == {}
    with pytest.raises(UserError, match="nothing to tune"):
        plan_trials(settings, [SPECULATIVE], 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=tuned"], "experiment/tuned"),
        (["experiment=tune", "tune.trials=1"], "trials must be"),
        (["experiment=tune", "tune.prompts=0"], "prompts must be"),
        (["experiment=tune", "tune.gamma=0"], "gamma must be"),
        (["experiment=tune", "tune.loss=-1"], "loss must be"),
        (["experiment=tune", "tune.loss=none"], "loss must be a number"),
        (["experiment=tune", "+tune.budget=3"], "tune has no option 'budget'"),
        (["experiment=tune", "tune.knobs=7"], "knobs must be a mapping"),
        (["experiment=tune", "tune.knobs.gamma=4"], r"gamma must be a list of values, not 4"),
        (["experiment=tune", "tune.knobs.gamma=[]"], "gamma must be a list of values"),
        (["experiment=tune", "+tune.knobs.depth=[1]"], "depth is no option of a decoder"),
        (["experiment=tune", "+tune.knobs.mtad={depth: [1]}"], "depth is no option of decoder mtad"),
        (["experiment=tune", "+tune.knobs.nonsense={gamma: [1]}"], "there is no decoder 'nonsense'"),
        (["tune=7"], "tune must be a mapping"),
        (["tune={}"], "tune lacks trials, prompts, gamma, loss, knobs, which cannot be left out"),
        (["+tune.prompts=2"], "tune lacks trials, gamma, loss, knobs, which"),
        (["experiment=tune", "~tune.loss"], "tune lacks loss, which"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        settings_of(*overrides)
    if "experiment=tuned" not in overrides:  # Hydra's own words, and its own exit
        assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


def plain(value: object) -> object:
    """As a decoder has it: a YAML list is a tuple."""
    return tuple(value) if isinstance(value, list) else value


def test_the_experiments_defaults_fit_every_decoder() -> None:
    settings = settings_of("experiment=tune", "reference=all")
    assert settings.tune is not None
    searches = plan_trials(settings.tune, settings.variants, settings.seed)
    assert {"mtad", "speculative"} <= {search.variant.name for search in searches}
    assert not {"autoregressive", "beam_search"} & {search.variant.name for search in searches}
    for search in searches:
        own = all(search.variant.options[name] in map(plain, values) for name, values in search.knobs.items())
        possible = search.combinations - search.refused + (not own)  # the first trial need not be a combination
        assert len(search.trials) == min(8, possible) > 1, search.variant.label
    assert tuned_variants(settings.tune, settings.variants)[0].label == "mtad"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune.knobs.gamma=[1,2.5]"], "gamma of mtad must be a whole number, not 2.5"),
        (["tune.knobs.gamma=[1,0]"], "gamma=0 is possible in no combination: decoder mtad: gamma must be"),
        (["limit=5"], "task toy has 6 prompts, too few for limit=5 and another 2 for tuning"),
        (["limit=null", "tune.prompts=6"], "task toy has 6 prompts, too few for at least one and another 6 for tuning"),
        (["reference=[{decoder: speculative, label: mtad-best}]"], "label 'mtad-best' is that of mtad as tuned"),
        (["decoder=autoregressive", "reference=[]"], "there is nothing to tune"),
        (["judge.path=no/such"], "no/such"),
    ],
)
def test_what_cannot_be_tuned_or_run_is_said_before_anything_is_measured(
    saved_pair: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    settings = toy_settings(saved_pair, tmp_path, *TUNE, "limit=3", *overrides)
    with pytest.raises(UserError, match=message) as caught:
        runner.run(settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())

"""The config groups (conf/decoder, conf/sampling, ...) through Hydra's own loader, so that search paths count.

Usable wherever Hydra is: under `@hydra.main`, or after `compose` with the Hydra config set.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from yaml import YAMLError

from mtad.errors import UserError

T = TypeVar("T")
_known: WeakKeyDictionary[Any, dict[tuple[str | None, ...], Any]] = WeakKeyDictionary()


def choice(group: str, none: str | None = None) -> str:
    """The option of `group` that this run was composed with, `none` if it has none. Raises UserError."""
    choices = HydraConfig.get().runtime.choices
    if none is not None and choices.get(group) is None:
        return none
    if group not in choices:  # of several options, which Hydra would merge silently
        raise UserError(f"{group} takes one option; further decoders go into reference=[...]")
    return str(choices[group])


def asked(key: str) -> bool:
    """Whether the user named a value of `key` himself, on the command line or in a sweep."""
    return key in _overridden()


def asked_within(key: str) -> str | None:
    """A key below `key` that the user named, as `task.max_new_tokens` is below `task`; None if there is none."""
    return next((name for name in _overridden() if name.startswith(f"{key}.")), None)


def names(group: str) -> list[str]:
    """All options of `group`."""
    return list(_read(("names", group), lambda: _names(group)))


def load(group: str, name: str) -> dict[str, Any]:
    """The YAML of an option as it stands, with nothing overridden. Raises UserError."""
    if name not in names(group):
        raise UserError(f"there is no {group} {name!r}; there are: {', '.join(names(group))}")
    return deepcopy(_read((group, name), lambda: _load(group, name)))


def drop_sweep_file() -> None:
    """Remove the copy of the whole configuration that a sweep leaves in the results, absolute paths and all."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        (Path(HydraConfig.get().sweep.dir) / "multirun.yaml").unlink(missing_ok=True)


def _overridden() -> list[str]:
    """The keys that the user named."""
    return [override.lstrip("+~").partition("=")[0] for override in HydraConfig.get().overrides.task]


def _read(what: tuple[str, str], read: Callable[[], T]) -> T:
    """What was read before by the same loader from the same places, for Hydra takes a tenth of a second each time."""
    known = _known.setdefault(GlobalHydra.instance().config_loader(), {})
    key = (HydraConfig.get().job.config_name, *_search_path(), *what)
    if key not in known:
        known[key] = read()
    return known[key]


def _names(group: str) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return sorted(
        loader.get_group_options(group, config_name=HydraConfig.get().job.config_name, overrides=_search_path())
    )


def _load(group: str, name: str) -> dict[str, Any]:
    try:
        config = compose(HydraConfig.get().job.config_name, overrides=[f"{group}={name}", *_search_path()])
    except YAMLError as error:  # of another package, or being written
        raise UserError(f"the YAML of {group} {name} cannot be read: {' '.join(str(error).split())}") from None
    loaded = OmegaConf.to_container(config[group], resolve=True)
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def _search_path() -> list[str]:
    added = list(HydraConfig.get().searchpath)
    return [f"hydra.searchpath=[{','.join(added)}]"] if added else []

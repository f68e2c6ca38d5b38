"""What a run was asked to do of its models: which, and where they are to be. Checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments import groups
from experiments.build import construct
from mtad.errors import UserError
from mtad.folders import find_folder
from mtad.sources import ModelSpec

ROLES = ("target", "draft")


def unpinned(config: object) -> object:
    """The configuration of the pair, without the commits that its YAML pins for models which others stand in for."""
    if not isinstance(config, Mapping):
        return config
    listed = groups.load("model", groups.choice("model"))
    return {key: _unpinned(value, listed.get(key)) if key in ROLES else value for key, value in config.items()}


def _unpinned(asked: Any, listed: Any) -> Any:
    if not isinstance(asked, Mapping) or not isinstance(listed, Mapping):
        return asked
    another = any(asked.get(key) != listed.get(key) for key in ("id", "path"))
    return {**asked, "revision": None} if another and asked.get("revision") == listed.get("revision") else asked


def model_of(config: object, role: str) -> ModelSpec:
    """The spec under model.<role>. Raises UserError."""
    if not isinstance(config, Mapping) or role not in config:
        raise UserError(f"model must have a {role}; see conf/model")
    spec: ModelSpec = construct(f"model.{role}", ModelSpec, config[role])
    return spec


def model_name(*specs: ModelSpec) -> str:
    """The YAML's name as long as the pair is the YAML's, else the names of its two models; and how it differs."""
    chosen = groups.choice("model")
    asked = [spec.path or spec.id for spec in specs]
    original = groups.load("model", chosen)
    if asked == [original[role].get("path") or original[role].get("id") for role in ROLES]:
        name = chosen
    else:
        name = "+".join(find_folder(name).resolve().name if name else "none" for name in asked)
    marks = ["".join(f"-{mark}" for mark in _marks(spec)) for spec in specs]
    if len(set(marks)) == 1:
        return name + marks[0]
    return name + "".join(f"{mark}-{role}" for mark, role in zip(marks, ROLES, strict=True) if mark)


def _marks(spec: ModelSpec) -> list[str]:
    """What a model is other than what its name says."""
    return [mark for mark in (spec.weights, spec.scale, f"{spec.bits}bit" if spec.bits else None) if mark]


def judge(config: object) -> ModelSpec | None:
    """The judge, if one is named. Raises UserError."""
    spec: ModelSpec = construct("judge", ModelSpec, config)  # type: ignore[arg-type]
    return spec if spec.id or spec.path else None


def device_map(value: object) -> str | tuple[str, ...] | None:
    """Of the target: null, auto or names of devices. Raises UserError."""
    if value is None or value == "auto":
        return value
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise UserError(f"device_map must be null, auto or a list of devices as in [cuda:0,cuda:1], not {value!r}")


def tp_plan(value: object) -> str | None:
    """Null or auto. Raises UserError."""
    if value not in (None, "auto"):
        raise UserError(f"tp_plan must be null or auto, not {value!r}")
    return value

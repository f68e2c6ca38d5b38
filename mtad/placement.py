"""Where the models of a pair are: on one device, the target's layers over several, or the target in parallel processes.

Three ways, for what a machine has: all on one device; `device_map`, where whole layers lie on one device after the
other and a forward passes through them in turn (it makes room, not speed); and tensor parallel (`mtad.parallel`), where
every layer is shared among the processes that torchrun has started. The draft is always whole on one device. Knows
devices and the shapes of models; refuses to know texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtad.errors import UserError
from mtad.meter.visible import torch_uuids
from mtad.parallel import started, team


@dataclass(frozen=True)
class Placement:
    """Where a pair is.

    Attributes:
        devices: of the target, in the order of its layers; the first takes its input.
        draft: of the draft.
        ranks: processes that share every layer of the target, this one among them; 1: it is not shared.
    """

    devices: tuple[torch.device, ...]
    draft: torch.device
    ranks: int = 1

    @classmethod
    def on(cls, device: torch.device) -> Placement:
        """Everything on one device."""
        return cls((device,), device)

    @property
    def device(self) -> torch.device:
        """Where the target takes its input."""
        return self.devices[0]

    @property
    def all(self) -> tuple[torch.device, ...]:
        """Every device of this process, each once."""
        return tuple(dict.fromkeys((*self.devices, self.draft)))

    @property
    def single(self) -> bool:
        """Whether both models are whole on one device."""
        return len(self.all) == 1 and self.ranks == 1

    def __str__(self) -> str:
        if self.single:
            return str(self.device)
        target = f"{self.ranks} processes" if self.ranks > 1 else ", ".join(map(str, self.devices))
        return f"target on {target}; draft on {self.draft}"


def gpus_in_use(placement: Placement) -> tuple[str, ...]:
    """The UUIDs, as torch has them, of the GPUs of this process and of those that share its target."""
    return tuple(dict.fromkeys([uuid for device in placement.all for uuid in torch_uuids(device)] + [*team.uuids]))


ON_CPU = Placement.on(torch.device("cpu"))


def find_device(name: str, key: str = "device") -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:i`; `key` is where the user named it. Raises UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise UserError(f"{key} must be auto, cpu, cuda or cuda:<index>, not {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}={name}: torch sees no CUDA device here; use {key}=cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise UserError(f"{key}={name}: there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device("cpu")


def find_placement(
    device: str,
    device_map: str | Sequence[str] | None = None,
    draft_device: str | None = None,
    tp_plan: str | None = None,
) -> Placement:
    """What a user asks for by these keys.

    Args:
        device: of both models, unless another key says otherwise.
        device_map: of the target: None is `device`, auto all CUDA devices, but for one that the draft has to itself.
        draft_device: None puts the draft beside the target's last layer.
        tp_plan: None or auto, which needs torchrun.

    Raises:
        UserError: devices that are not there, keys that exclude each other, no torchrun.
    """
    main = find_device(device)
    draft = None if draft_device is None else find_device(draft_device, "draft_device")
    if tp_plan:
        if device_map is not None:
            raise UserError("tp_plan and device_map are two ways to share the target: leave one of them out")
        return Placement((main,), draft or main, _ranks())
    if started() > 1:
        raise UserError(f"torchrun has started {started()} processes: share the target with tp_plan=auto, or start one")
    if device_map is None:
        return Placement((main,), draft or main)
    devices = _mapped(device_map, draft)
    if device not in ("auto", devices[0].type):
        raise UserError(f"device={device} and device_map are two answers to one question: leave one of them out")
    if draft is not None and draft.type != devices[0].type:
        raise UserError(f"draft_device={draft_device} and device_map name devices of two kinds")
    return Placement(devices, draft or devices[-1])


def _ranks() -> int:
    if team.size < 2:
        raise UserError(
            "tp_plan=auto needs torchrun --nproc_per_node=N run.py ..., one process a GPU; on one GPU leave it out"
        )
    return team.size


def _mapped(device_map: str | Sequence[str], draft: torch.device | None) -> tuple[torch.device, ...]:
    """The target's devices. Raises UserError."""
    if device_map == "auto":
        if not torch.cuda.is_available():
            raise UserError("device_map=auto spreads over CUDA devices, and torch sees none: leave it out")
        every = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        return tuple(device for device in every if device != draft) or tuple(every)
    devices = tuple(find_device(name, "device_map") for name in device_map)
    if len(set(devices)) < len(devices):
        raise UserError(f"device_map names a device twice: {', '.join(device_map)}")
    if len({device.type for device in devices}) > 1:
        raise UserError("device_map must name devices of one kind")
    return devices


def layer_devices(
    layer_bytes: Sequence[int], first: int, last: int, devices: Sequence[torch.device], shares: Sequence[float]
) -> list[torch.device]:
    """A device for each layer, neighbours together, so that every device is filled in proportion to its share.

    Args:
        layer_bytes: of each layer, its part of the cache included.
        first, last: bytes that the first and the last device hold beside layers: embeddings; head and draft.
        shares: what each device can hold, in any unit.
    """
    whole = first + sum(layer_bytes) + last
    ends = [whole * sum(shares[: i + 1]) / sum(shares) for i in range(len(devices) - 1)]
    middles = [first + sum(layer_bytes[:i]) + size / 2 for i, size in enumerate(layer_bytes)]
    return [devices[sum(end < middle for end in ends)] for middle in middles]


def device_map_of(lm: nn.Module, layers: Sequence[torch.device]) -> dict[str, torch.device]:
    """A device for every part of a Hugging Face model, as transformers and accelerate take it.

    What comes before the layers is with the first, what comes after with the last; a head that is tied to the
    embeddings is with these.

    Args:
        lm: the model, which may be without weights.
        layers: of every decoder layer.
    """
    decoder: Any = lm.get_decoder()  # type: ignore[operator]
    head: Any = lm.get_output_embeddings()  # type: ignore[operator]
    names = {module: name for name, module in lm.named_modules()}
    places: dict[str, torch.device] = {}
    for name, child in decoder.named_children():
        before = isinstance(child, nn.Embedding) or name == "project_in" or not list(child.parameters())
        if name == "layers":
            places |= {f"{names[child]}.{i}": device for i, device in enumerate(layers)}
        else:
            places[names[child]] = layers[0] if before else layers[-1]
    tied = getattr(lm.config, "tie_word_embeddings", False)
    return {**places, names[head]: layers[0] if tied else layers[-1]}

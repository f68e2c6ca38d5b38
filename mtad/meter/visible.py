"""Which physical GPUs are in use: from torch, from CUDA_VISIBLE_DEVICES, or named by the user. Knows UUIDs alone.

CUDA numbers GPUs by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML by the PCI bus. So an index says which GPU is meant
only through torch, which gives the UUID of its cuda:0; without that, indices are read in NVML's order, and a note says
when this may be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mtad.errors import UserError

if TYPE_CHECKING:
    import torch

SLICE = re.compile(r"MIG-(GPU-[^/]+)/\d+/\d+")  # the older name of a MIG device: its GPU, then two numbers


class Physical(Protocol):
    """A GPU as NVML lists it."""

    uuid: str
    name: str
    slices: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """UUIDs of the physical GPUs in use, in the order of CUDA's indices as far as known, and what is doubtful."""

    uuids: tuple[str, ...]
    notes: tuple[str, ...] = ()


def torch_uuids(device: torch.device) -> tuple[str, ...]:
    """What torch calls the GPU behind `device`; nothing for a CPU."""
    if device.type != "cuda":
        return ()
    from torch.cuda import get_device_properties  # here, because a meter needs no torch otherwise

    return (str(get_device_properties(device).uuid),)


def from_torch(gpus: Sequence[Physical], uuids: Sequence[str]) -> Selection:
    """The GPUs with torch's UUIDs, which have no prefix and may be those of MIG devices."""
    owners = {re.sub("^(GPU|MIG)-", "", name): gpu.uuid for gpu in gpus for name in (gpu.uuid, *gpu.slices)}
    bare = [re.sub("^(GPU|MIG)-", "", uuid) for uuid in uuids]
    lost = [f"NVML does not know the GPU {uuid}, which torch uses" for uuid in bare if uuid not in owners]
    return Selection(tuple(dict.fromkeys(owners[uuid] for uuid in bare if uuid in owners)), tuple(lost))


def named(gpus: Sequence[Physical], uuids: Sequence[str], used: Sequence[str] | None = None) -> Selection:
    """The GPUs that a user names by UUID, or by that of a MIG device.

    Args:
        gpus: those there.
        uuids: those named. None at all is a choice too: no GPU is measured.
        used: torch's UUIDs of the GPUs that the run uses, if torch was asked; empty for a run on the CPU.

    Raises:
        UserError: an unknown UUID, or none of a GPU that the run uses.
    """
    owners = {name: gpu.uuid for gpu in gpus for name in (gpu.uuid, *gpu.slices)}
    for uuid in uuids:
        if uuid not in owners:
            raise UserError(f"there is no GPU {uuid!r}; there are: {', '.join(owners) or 'none'}")
    chosen = tuple(dict.fromkeys(owners[uuid] for uuid in uuids))
    if not chosen or used is None:
        return Selection(chosen)
    in_use = from_torch(gpus, used)
    if in_use.notes:
        raise UserError(f"{in_use.notes[0]}: leave out the GPUs named for the meter")
    for uuid in in_use.uuids:
        if uuid not in chosen:
            raise UserError(f"the run uses GPU {uuid}, which is not among those named for the meter: name it too")
    return Selection(
        chosen, () if used else ("the run is on the CPU: the GPUs named for the meter do none of its work",)
    )


def visible(gpus: Sequence[Physical], environment: Mapping[str, str]) -> Selection:
    """The GPUs that CUDA_VISIBLE_DEVICES shows.

    CUDA's rules: unset shows all; an entry is an index, or the beginning of one UUID only; one that is invalid hides
    itself and all after it; one that comes twice hides everything; indices and UUIDs do not mix.
    """
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return Selection(tuple(gpu.uuid for gpu in gpus))
    entries = [entry.strip() for entry in text.split(",")]
    by_index = not entries[0].startswith(("GPU-", "MIG-"))
    found: list[str] = []  # of GPUs or MIG devices
    for entry in entries:
        name = _by_index(gpus, entry) if by_index else _by_uuid(gpus, entry)
        if name is None:
            break
        if name in found:
            found = []
            break
        found.append(name)
    owners = {name: gpu.uuid for gpu in gpus for name in (gpu.uuid, *gpu.slices)}
    uuids = [owners[match[1] if (match := SLICE.fullmatch(name)) else name] for name in found]
    ordered = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    doubtful = by_index and found and not ordered and len({gpu.name for gpu in gpus}) > 1
    return Selection(tuple(dict.fromkeys(uuids)), (DOUBT,) if doubtful else ())


DOUBT = (
    "indices in CUDA_VISIBLE_DEVICES were read in the order of the PCI bus; CUDA counts these GPUs, which differ in "
    "model, by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID"
)


def _by_index(gpus: Sequence[Physical], entry: str) -> str | None:
    """CUDA reads the digits that an entry begins with."""
    digits = re.match(r"\+?(\d+)", entry)
    return gpus[int(digits[1])].uuid if digits and int(digits[1]) < len(gpus) else None


def _by_uuid(gpus: Sequence[Physical], entry: str) -> str | None:
    """The UUID that alone begins like this; the older name of a MIG device stays as it is."""
    older = SLICE.fullmatch(entry)
    if older:
        return entry if any(gpu.uuid == older[1] for gpu in gpus) else None
    if entry in ("GPU-", "MIG-"):
        return None
    matches = [name for gpu in gpus for name in (gpu.uuid, *gpu.slices) if entry and name.startswith(entry)]
    return matches[0] if len(matches) == 1 else None

"""Volumes: what a slot of a job keeps on its device, from one start of its task to the next.

A volume is a slot's own. It lives where the slot first ran, and the slot goes back there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.ids import JobId
from protocol.jobtype import JobType
from protocol.paths import read_path
from protocol.tree import NAME, NAME_ALLOWED, Fields, Node, Plain

VOLUMES_MAX: Final = 8
WITHOUT_MAX: Final = 16

FIELDS: Final = ("Name", "Target", "ReadOnly", "Without")
HINTS: Final = {
    "Source": "is not a key here; a path of the device is an input source, localDirectory",
    "Driver": "is nothing that a job chooses; a volume is on the disk of its device",
    "Size": "is not something this version has; a volume may grow with the disk",
}


class Volume(msgspec.Struct, frozen=True):
    """A directory that outlives the task. `without` names devices, by name or id, that it is not
    looked for on any more: a person's word that what is there is lost."""

    name: str
    target: str  # see paths.read_path
    read_only: bool = False
    without: tuple[str, ...] = ()

    @classmethod
    def read(cls, node: Node) -> Volume:
        fields = node.fields(*FIELDS, later=HINTS)
        return cls(
            name=fields.need("Name").matching(NAME, NAME_ALLOWED),
            target=read_path(fields.need("Target")),
            read_only=fields.read("ReadOnly", Node.flag, False),
            without=fields.read("Without", _read_devices, ()),
        )

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {"Name": self.name, "Target": self.target}
        if self.read_only:
            tree["ReadOnly"] = True
        if self.without:
            tree["Without"] = [*self.without]
        return tree


def read_volumes(fields: Fields, engine: str, others: Sequence[str]) -> tuple[Volume, ...]:
    """A task's; `others` are the places of its inputs. Raises JobSpecError."""
    node = fields.get_or("Volumes", [])
    found: list[Volume] = []
    for item in node.items(VOLUMES_MAX):
        volume = Volume.read(item)
        if engine == "wasm":
            item.fail("a WebAssembly module keeps nothing; leave Volumes out")
        if engine == "process" and volume.read_only:
            item.fail("a process may write to what it keeps; leave ReadOnly out")
        if engine == "docker" and not volume.target.startswith("/"):
            item.fail(f"'{volume.target}' is no place in a container; write /{volume.target}")
        if any(volume.name == earlier.name for earlier in found):
            item.fail(f"the name '{volume.name}' is taken by an earlier volume")
        for place in (*others, *(earlier.target for earlier in found)):
            if _overlap(place, volume.target):
                item.fail(f"the target '{volume.target}' and '{place}' lie within one another")
        found.append(volume)
    return tuple(found)


def why_none(kind: JobType, fired: bool) -> str:
    """Why a job of this type keeps no volumes; empty where it may."""
    if kind is JobType.OPS:
        return "an ops job runs once on each peer and comes back to none; leave Volumes out"
    if fired:
        return "each run is a job of its own, and would find its volumes empty; leave Volumes out"
    return ""


def volume_id(job: JobId, slot: int, name: str) -> str:
    """The volume of one slot, the same at each start and on each device: 128 bits in hex.

    A standing job's id is made of shoal, namespace and name, so that they are in here too.
    """
    text = f"{job}\0{slot}\0{name}".encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def lost_on(volumes: Sequence[Volume], peer: str, name: str) -> bool:
    """Whether a person has said that what the device has of them is lost."""
    return any(peer in volume.without or name in volume.without for volume in volumes)


def _read_devices(node: Node) -> tuple[str, ...]:
    found = {item.matching(NAME, NAME_ALLOWED) for item in node.items(WITHOUT_MAX)}
    return tuple(sorted(found))


def _overlap(one: str, other: str) -> bool:
    """`/data` and `data` are one place for a process."""
    a, b = f"{one.strip('/')}/", f"{other.strip('/')}/"
    return a.startswith(b) or b.startswith(a)

"""Labels: those the agent finds by itself, those a person sets, and how they come together.

Found names are the agent's alone: a constraint on `arch` means the processor on every device. What
a person sets comes, from the weakest on, with the invite, from the configuration, and live.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocol.clock import CLOCK_LABEL
from protocol.errors import JobSpecError
from protocol.tree import Node

if TYPE_CHECKING:
    from agent.hardware import Hardware

LABELS_MAX: Final = 63  # with shoal/clock as many as an advert holds
OWN_MAX: Final = 48  # a person's; the rest is for what is found
FOUND_MAX: Final = 32  # a board with more device files than this has the first of them
VALUE_BYTES_MAX: Final = 256
FOUND_CHARS_MAX: Final = 63  # of a value: names of boards and drivers say enough within that

# Names as in Bacalhau's and Kubernetes' nodes: amd64, arm64.
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
POWER: Final = {1: "mains", 0: "battery", -1: "unknown"}
DEVICE: Final = "device."
WASM: Final = "engine.wasm"
S3_LABEL: Final = "storage.s3"  # its client is here; whose buckets is the owner's word
RESERVED: Final = (
    "arch",
    "cpus",
    "gpu",
    "hostname",
    "memory",
    "model",
    "os",
    "power",
    "temperature",  # a fact of each bid, and no label: it changes all the time
    CLOCK_LABEL,
    S3_LABEL,
)
BROKER: Final = "broker."  # protocol.asks.BROKER_LABEL, whose import would slow the command line
RESERVED_PREFIXES: Final = (DEVICE, "engine.", BROKER)

FOUND: Final = "found"
INVITE: Final = "invite"
CONFIG: Final = "configuration"
LIVE: Final = "set"


@dataclass(frozen=True, slots=True)
class Label:
    name: str
    value: str
    source: str  # FOUND, INVITE, CONFIG or LIVE


def reserved(name: str) -> bool:
    return name in RESERVED or name.startswith(RESERVED_PREFIXES)


def problem(labels: Mapping[str, str]) -> str:
    """Why a person cannot set these, in a sentence; empty where they can."""
    for name in sorted(labels):
        if reserved(name):
            return (
                f"the label {name} is the agent's own: it says what the device is; "
                "use another name, say my-" + name.replace(".", "-")
            )
    try:
        Node(dict(labels)).words(OWN_MAX, VALUE_BYTES_MAX)
    except JobSpecError as error:
        return str(error)
    return ""


def found(hardware: Hardware) -> dict[str, str]:
    """What the agent can tell by itself, at most FOUND_MAX; device files are the last."""
    machine = platform.machine()
    _, mains = hardware.power()
    labels = {
        "arch": ARCHITECTURES.get(machine, machine),
        "os": platform.system().lower(),
        "hostname": platform.node(),
        "cpus": str(hardware.cpus()),
        "memory": str(hardware.memory_bytes() >> 20),  # MiB, so that gt and lt can be asked
        "power": POWER[mains],
        "model": hardware.model(),
        "gpu": hardware.gpu(),
        "engine.docker": "true" if hardware.docker() else "",
    }
    labels = {name: value for name, value in labels.items() if value}
    labels |= {DEVICE + name: value for name, value in hardware.devices().items()}
    return {name: value[:FOUND_CHARS_MAX] for name, value in [*labels.items()][:FOUND_MAX]}


def together(
    found: Mapping[str, str],
    invite: Mapping[str, str],
    config: Mapping[str, str],
    live: Mapping[str, str],
) -> dict[str, Label]:
    """All labels by name, at most LABELS_MAX: device files give way to what a person set, and of
    that, where it is more than OWN_MAX, what was said first."""
    labels: dict[str, Label] = {}
    for source, given in ((LIVE, live), (CONFIG, config), (INVITE, invite)):
        for name in sorted(given):
            # Reserved ones may be in a file of an earlier version.
            if len(labels) < OWN_MAX and not reserved(name):
                labels.setdefault(name, Label(name, given[name], source))
    said = {name: Label(name, value, FOUND) for name, value in found.items()}
    core = {name: label for name, label in said.items() if not name.startswith(DEVICE)}
    room = max(0, LABELS_MAX - len(core) - len(labels))
    devices = [label for name, label in said.items() if name.startswith(DEVICE)][:room]
    labels |= core | {label.name: label for label in devices}
    return {name: labels[name] for name in sorted(labels)}

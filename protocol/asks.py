"""Asks: what a task wants of a device beyond its share of cpu and memory, which its owner allows.

An ask is a line of text, `device /dev/i2c-1`, so that what a later version asks for is refused by
the owner of an earlier one, and not overlooked.
"""

from __future__ import annotations

from typing import Final

from protocol.config import PolicyConfig
from protocol.engine import EngineSpec
from protocol.task import NetworkSpec, TaskSpec

NETWORK: Final = "network"
DEVICE: Final = "device"
CAPABILITY: Final = "capability"


def asks_of(task: TaskSpec) -> tuple[str, ...]:
    """What its owner has to allow. A process has the device's own network, asked or not: whoever
    lets processes run lets them do that. A WebAssembly module reaches nothing of the device."""
    if task.engine.type != "docker":
        return ()
    params = task.engine.container
    return (
        f"{NETWORK} {network_of(task.engine, task.network)}",
        *(f"{DEVICE} {path}" for path in params.devices),
        *(f"{CAPABILITY} {name}" for name in params.capabilities),
    )


def network_of(engine: EngineSpec, network: NetworkSpec) -> str:
    """What is meant where the job leaves it out: a container's is a bridge, as in Bacalhau."""
    if network.type != "default":
        return network.type
    return {"docker": "bridge", "wasm": "none"}.get(engine.type, "host")


def not_allowed(policy: PolicyConfig, asks: tuple[str, ...]) -> str:
    """The first that the device's owner does not allow, in a sentence with the setting that would;
    empty where all are."""
    allowed = {
        NETWORK: ("networks", policy.networks),
        DEVICE: ("devices", policy.devices),
        CAPABILITY: ("capabilities", policy.capabilities),
    }
    for ask in asks:
        kind, _, what = ask.partition(" ")
        if kind not in allowed:
            return f"policy: {ask} is nothing this version knows of"
        key, patterns = allowed[kind]
        if not any(_matches(what, pattern) for pattern in patterns):
            line = ", ".join(f'"{pattern}"' for pattern in patterns)
            return f"policy: {ask} is not allowed here ([accept] {key} = [{line}])"
    return ""


def _matches(what: str, pattern: str) -> bool:
    """A star at the end stands for any rest: /dev/video*."""
    if pattern.endswith("*"):
        return what.startswith(pattern[:-1])
    return what == pattern

"""Asks: what a task wants of a device beyond its share of cpu and memory, which its owner allows.

An ask is a line of text, `device /dev/i2c-1`, so that what a later version asks for is refused by
the owner of an earlier one, and not overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from protocol.config import PolicyConfig
from protocol.engine import EngineSpec
from protocol.network import NetworkSpec
from protocol.s3 import PLAIN_HTTP, S3Source
from protocol.sources import DirectorySource, Source, UrlSource
from protocol.task import TaskSpec, of_device
from protocol.topics import JOBS_OWN, asked_topic, is_jobs, is_shoals, topic_matches

NETWORK: Final = "network"
PORT: Final = "port"
DEVICE: Final = "device"
CAPABILITY: Final = "capability"
DIRECTORY: Final = "directory"
DOWNLOAD: Final = "download"
BUCKET: Final = "bucket"
ENVIRONMENT: Final = "environment"
ISOLATION: Final = "isolation"
VOLUME: Final = "volume"
BROKER: Final = "broker"
TOPIC: Final = "topic"
BROKER_LABEL: Final = "broker."  # of a device where one of the name behind it is configured
WRITABLE: Final = ":rw"
DYNAMIC: Final = "dynamic"  # a port that the device chooses
_TLS: Final = "https://"
_PORT: Final = re.compile(r"^(\[[^/\]]*\]|[^/\[]*):[0-9]+(?=[/*]|$)")  # not within [::1]
_TLS_PORT: Final = re.compile(r"^[^/]*:443(?=/|$)")
LACKING: Final = {
    BUCKET: "s3 is not here: this device was set up without it (sudo scripts/install --s3 where it "
    "is a service, else pip install 'shoal[s3]')"
}


def asks_of(task: TaskSpec, name: str = "", namespace: str = "") -> tuple[str, ...]:
    """What its owner has to allow; `name` and `namespace` are the job's, which may stand in topics
    (without, an owner who names topics allows less). A process has the device's own network, unless
    it asks for none: whoever lets processes run lets them do that. A WebAssembly module has none.
    """
    inputs = (
        *(ask for each in task.input_sources for ask in _of_source(each.source)),
        *(f"{ENVIRONMENT} {of_device(value)}" for value in task.env.values() if of_device(value)),
        *(f"{VOLUME} {volume.name}" for volume in task.volumes),
    )
    if task.publisher.mqtt is not None:
        inputs = (*inputs, f"{BROKER} {task.publisher.mqtt.broker}")
        if topic := asked_topic(task.publisher.mqtt, name, namespace):
            inputs = (*inputs, f"{TOPIC} {topic}")
    if task.publisher.s3 is not None:
        inputs = (*inputs, f"{BUCKET} {task.publisher.s3.place.name}{WRITABLE}")
    if task.engine.type == "process" and task.network.type == "none":
        return (f"{ISOLATION} network", *inputs)
    if task.engine.type != "docker":
        return inputs
    params = task.engine.container
    return (
        f"{NETWORK} {network_of(task.engine, task.network)}",
        *dict.fromkeys(f"{PORT} {port.static or DYNAMIC}" for port in task.network.ports),
        *(f"{DEVICE} {path}" for path in params.devices),
        *(f"{CAPABILITY} {name}" for name in params.capabilities),
        *inputs,
    )


def _of_source(source: Source) -> Iterator[str]:
    if isinstance(source, DirectorySource):
        yield f"{DIRECTORY} {source.path}{WRITABLE if source.writable else ''}"
    if isinstance(source, UrlSource):
        yield f"{DOWNLOAD} {source.host}"
    if isinstance(source, S3Source):
        yield f"{BUCKET} {source.place.name}"


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
        PORT: ("ports", policy.ports),
        DEVICE: ("devices", policy.devices),
        CAPABILITY: ("capabilities", policy.capabilities),
        DIRECTORY: ("directories", policy.directories),
        DOWNLOAD: ("downloads", policy.downloads),
        BUCKET: ("buckets", policy.buckets),
        ENVIRONMENT: ("environment", policy.environment),
        VOLUME: ("volumes", policy.volumes),
        TOPIC: ("topics", policy.topics),
    }
    for ask in asks:
        kind, _, what = ask.partition(" ")
        if kind == ISOLATION:
            if what not in policy.isolation:
                return f"only bubblewrap can keep a program from the {what}, and it is not here"
            continue
        if kind == BROKER:  # whoever configured it lets jobs publish there: see `lacking`
            continue
        if kind == TOPIC and is_shoals(what, policy.topics_root):
            if is_jobs(what, policy.topics_root):
                continue
            return f"policy: {ask} is the shoal's own, where jobs have {JOBS_OWN} alone"
        if kind not in allowed:
            return f"policy: {ask} is nothing this version knows of"
        if kind in policy.lacking:
            return LACKING.get(kind, f"{kind} is not something this device has")
        key, patterns = allowed[kind]
        matches = _MATCHES.get(kind, matching)
        if not any(matches(what, pattern) for pattern in patterns):
            line = ", ".join(f'"{pattern}"' for pattern in patterns)
            return f"policy: {ask} is not allowed here ([accept] {key} = [{line}])"
    return ""


def lacking(asks: tuple[str, ...], labels: Mapping[str, str]) -> str:
    """The first that a device with these labels does not have, in a sentence with what would give
    it; empty where it has all."""
    for ask in asks:
        kind, _, what = ask.partition(" ")
        if kind == BROKER and f"{BROKER_LABEL}{what}" not in labels:
            return f"no MQTT broker {what} is configured here ([mqtt.brokers.{what}])"
    return ""


def matching(what: str, pattern: str) -> bool:
    """A star at one end stands for any rest: /dev/video*, *.example.org."""
    if pattern.endswith("*"):
        return what.startswith(pattern[:-1])
    if pattern.startswith("*"):
        return what.endswith(pattern[1:])
    return what == pattern


def _bucket(what: str, pattern: str) -> bool:
    """One that may be written to may be read, too. A pattern that says neither http:// nor https://
    means TLS; with a port, as of a server at home, what speaks there."""
    writable = pattern.endswith(WRITABLE)
    place, allowed = what.removesuffix(WRITABLE), pattern.removesuffix(WRITABLE)
    if place.startswith(PLAIN_HTTP) and not allowed.startswith((PLAIN_HTTP, _TLS)):
        place = place.removeprefix(PLAIN_HTTP)
        if not _PORT.search(allowed) or _TLS_PORT.search(place):
            return False
    fits = matching(place, allowed.removeprefix(_TLS))
    return fits and (writable or not what.endswith(WRITABLE))


def _holds(what: str, pattern: str) -> bool:
    """A directory holds what is below it, and one that may be written to may be read. Of that one
    nothing below is given by itself: a task that has it could put a link there meanwhile, which
    leads elsewhere."""
    path, allowed = what.removesuffix(WRITABLE), pattern.removesuffix(WRITABLE).rstrip("/")
    if pattern.endswith(WRITABLE):
        return path == allowed
    return not what.endswith(WRITABLE) and (path == allowed or path.startswith(f"{allowed}/"))


_MATCHES: Final = {DIRECTORY: _holds, BUCKET: _bucket, TOPIC: topic_matches}

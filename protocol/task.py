"""A task: what runs in one slot of a job, with what, for how long and what is kept of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.engine import ENGINE_FIELDS, EngineSpec
from protocol.inputs import InputSource, read_inputs
from protocol.network import NetworkSpec
from protocol.paths import read_path
from protocol.publisher import PublisherSpec
from protocol.quantities import format_duration, parse_duration_s
from protocol.resources import CONTAINER_DEFAULT, RESOURCES_DEFAULT, Resources
from protocol.resources import FIELDS as RESOURCES_FIELDS
from protocol.sources import DirectorySource
from protocol.tree import NAME, NAME_ALLOWED, Fields, Node, Plain, shown
from protocol.volumes import Volume, read_volumes
from protocol.wasm import sources_with

NAME_DEFAULT: Final = "main"  # what Bacalhau's CLI calls the one task of a job
ENV_MAX: Final = 64
ENV_VALUE_BYTES_MAX: Final = 4096
META_MAX: Final = 32
META_VALUE_BYTES_MAX: Final = 1024
RESULT_PATHS_MAX: Final = 16
TIMEOUT_S_MAX: Final = 366 * 86400
QUEUE_TIMEOUT_S_DEFAULT: Final = 300  # peers at the edge come and go; Bacalhau gives up at once

FIELDS: Final = (
    "Name",
    "Engine",
    "Env",
    "InputSources",
    "Stdin",
    "ResultPaths",
    "Publisher",
    "Resources",
    "Network",
    "Timeouts",
    "Meta",
    "Volumes",
)
RESULT_FIELDS: Final = ("Name", "Path")
TIMEOUT_FIELDS: Final = ("ExecutionTimeout", "QueueTimeout", "TotalTimeout")

OF_DEVICE: Final = "env:"
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ENV_RESERVED: Final = ("SHOAL_", "BACALHAU_")  # what the agent itself tells a task


class ResultPath(msgspec.Struct, frozen=True):
    """A file or directory of the task that is kept, under a name."""

    name: str
    path: str

    @classmethod
    def read(cls, node: Node) -> ResultPath:
        fields = node.fields(*RESULT_FIELDS)
        name = fields.need("Name").matching(NAME, NAME_ALLOWED)
        return cls(name, read_path(fields.need("Path")))

    def to_plain(self) -> dict[str, Plain]:
        return {"Name": self.name, "Path": self.path}


class TimeoutsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in whole seconds. Standing jobs ignore them, so theirs are all zero."""

    execution_s: int = 0  # zero: none. A long job is no fault, and Bacalhau has none either
    queue_s: int = 0  # wait for a peer that fits; zero: give up at once, as Bacalhau does
    total_s: int = 0  # from acceptance to the end, retries included; zero: none

    @classmethod
    def read(cls, node: Node) -> TimeoutsSpec:
        fields = node.fields(*TIMEOUT_FIELDS)
        execution = fields.read("ExecutionTimeout", read_timeout_s, 0)
        total = fields.read("TotalTimeout", read_timeout_s, 0)
        spare = max(0, total - execution) if total else QUEUE_TIMEOUT_S_DEFAULT
        queue = fields.read("QueueTimeout", read_timeout_s, min(spare, QUEUE_TIMEOUT_S_DEFAULT))
        if total and execution + queue > total:
            node.fail(
                f"ExecutionTimeout {execution} s and QueueTimeout {queue} s "
                f"are more than the TotalTimeout of {total} s together"
            )
        return cls(execution_s=execution, queue_s=queue, total_s=total)

    def to_plain(self) -> dict[str, Plain]:
        return {
            "ExecutionTimeout": self.execution_s,
            "QueueTimeout": self.queue_s,
            "TotalTimeout": self.total_s,
        }


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one slot runs."""

    name: str = NAME_DEFAULT
    engine: EngineSpec
    env: dict[str, str] = {}
    input_sources: tuple[InputSource, ...] = ()
    stdin: str = ""  # a file of its inputs that it reads as standard input; empty: none
    result_paths: tuple[ResultPath, ...] = ()
    publisher: PublisherSpec = PublisherSpec()
    resources: Resources = RESOURCES_DEFAULT
    network: NetworkSpec = NetworkSpec()
    timeouts: TimeoutsSpec = TimeoutsSpec()
    meta: dict[str, str] = {}
    volumes: tuple[Volume, ...] = ()

    @classmethod
    def read(cls, node: Node, engines: Sequence[str], *, standing: bool) -> TaskSpec:
        fields = node.fields(*FIELDS)
        timeouts = TimeoutsSpec.read(fields.get_or("Timeouts", {}))
        engine = EngineSpec.read(fields.need("Engine"), engines)
        base = CONTAINER_DEFAULT if engine.type == "docker" else RESOURCES_DEFAULT
        sources = _read_sources(fields, engine)
        paths: tuple[ResultPath, ...] = fields.read("ResultPaths", _read_result_paths, ())
        return cls(
            name=fields.read("Name", lambda at: at.matching(NAME, NAME_ALLOWED), NAME_DEFAULT),
            engine=engine,
            env=fields.read("Env", _read_env, {}),
            input_sources=sources,
            stdin=fields.read("Stdin", lambda at: _read_stdin(at, engine, sources), ""),
            result_paths=paths,
            publisher=_read_publisher(fields, paths, standing),
            resources=fields.read("Resources", lambda at: _read_resources(at, engine, base), base),
            network=fields.read("Network", lambda at: _read_network(at, engine), NetworkSpec()),
            timeouts=TimeoutsSpec() if standing else timeouts,
            meta=fields.read("Meta", lambda at: at.words(META_MAX, META_VALUE_BYTES_MAX), {}),
            volumes=read_volumes(fields, engine.type, [each.target for each in sources]),
        )

    def to_plain(self) -> dict[str, Plain]:
        """Canonical form: what is empty is left out, every default is written down."""
        lists: dict[str, list[Plain]] = {
            "InputSources": [source.to_plain() for source in self.input_sources],
            "ResultPaths": [path.to_plain() for path in self.result_paths],
            "Volumes": [volume.to_plain() for volume in self.volumes],
        }
        words: dict[str, dict[str, Plain]] = {"Env": {**self.env}, "Meta": {**self.meta}}
        stdin: dict[str, Plain] = {"Stdin": self.stdin} if self.stdin else {}
        return {
            "Name": self.name,
            "Engine": self.engine.to_plain(),
            "Publisher": self.publisher.to_plain(),
            "Resources": self.resources.to_plain(),
            "Network": self.network.to_plain(),
            "Timeouts": self.timeouts.to_plain(),
            **stdin,
            **{key: value for key, value in lists.items() if value},
            **{key: value for key, value in words.items() if value},
        }


def _read_sources(fields: Fields, engine: EngineSpec) -> tuple[InputSource, ...]:
    """Modules that are written as a source in their engine's parameters are sources like others."""
    sources = read_inputs(fields.get_or("InputSources", []))
    if engine.type != "wasm":
        return sources
    return sources_with(fields.need("Engine").fields(*ENGINE_FIELDS).need("Params"), sources)


def _read_publisher(fields: Fields, paths: tuple[ResultPath, ...], standing: bool) -> PublisherSpec:
    """What would never publish anything is refused, rather than left to be noticed."""
    publisher = fields.read("Publisher", PublisherSpec.read, PublisherSpec())
    if standing and (node := fields.get("Publisher")) is not None:
        publisher.check_standing(node)
    if publisher.s3 is not None and standing:
        fields.need("Publisher").fail(
            "a daemon or service has no end, and so no results to publish; leave it out"
        )
    if publisher.s3 is not None and not paths:
        fields.need("Publisher").fail(
            "there is nothing to publish without ResultPaths; what a task writes to stdout and "
            "stderr is kept by its device, for `shoal logs`"
        )
    return publisher


def _read_stdin(node: Node, engine: EngineSpec, sources: Sequence[InputSource]) -> str:
    """The file is opened below the task's own directory, and nowhere else: not in a directory of
    the device, nor in a container."""
    if engine.type == "docker":
        node.fail(
            "a container is given no standard input here; leave Stdin out, and read the file at "
            "its Target or a variable of Env"
        )
    path = read_path(node)
    for source in sources:
        if isinstance(source.source, DirectorySource):
            continue
        target = source.target.strip("/")
        if path.strip("/") == target or target == "." or path.strip("/").startswith(f"{target}/"):
            return path
    targets = ", ".join(source.target for source in sources) or "none"
    node.fail(f"{shown(path)} is in none of the task's InputSources; their targets: {targets}")


def _read_resources(node: Node, engine: EngineSpec, base: Resources) -> Resources:
    resources = Resources.read(node, base)
    if engine.type == "wasm" and resources.gpu:
        node.fields(*RESOURCES_FIELDS).need("GPU").fail(
            "a WebAssembly module reaches no graphics processor; leave it out, or write 0"
        )
    return resources


def _read_network(node: Node, engine: EngineSpec) -> NetworkSpec:
    network = NetworkSpec.read(node)
    if engine.type == "wasm" and network.type not in ("default", "none"):
        node.fail("a WebAssembly module reaches no network; leave it out, or write Type: none")
    if engine.type == "process" and network.type == "bridge":
        node.fail("a process has the device's own network; leave Type out, or write None or Host")
    return network


def read_timeout_s(node: Node) -> int:
    return node.quantity(parse_duration_s, 0, TIMEOUT_S_MAX, format_duration)


def _read_env(node: Node) -> dict[str, str]:
    env = {}
    for name, at in node.entries(ENV_MAX):
        if not _ENV_NAME.fullmatch(name):
            at.fail(f"{shown(name)} is not a variable's name; allowed: letters, digits and '_'")
        if name.upper().startswith(_ENV_RESERVED):
            at.fail(f"names that start with {' or '.join(_ENV_RESERVED)} belong to the agent")
        env[name] = at.word(ENV_VALUE_BYTES_MAX)
        if env[name].startswith(OF_DEVICE) and not _ENV_NAME.fullmatch(of_device(env[name])):
            at.fail(f"{shown(env[name])} names no variable; allowed: e.g. env:API_TOKEN")
    return env


def of_device(value: str) -> str:
    """The variable of the device that a value stands for, as in Bacalhau; empty for any other."""
    return value.removeprefix(OF_DEVICE) if value.startswith(OF_DEVICE) else ""


def _read_result_paths(node: Node) -> tuple[ResultPath, ...]:
    found: list[ResultPath] = []
    for item in node.items(RESULT_PATHS_MAX):
        result = ResultPath.read(item)
        if any(earlier.name == result.name for earlier in found):
            item.fail(f"the name '{result.name}' is taken by an earlier result path")
        # `/out` and `out` are one place for a process
        if any(earlier.path.lstrip("/") == result.path.lstrip("/") for earlier in found):
            item.fail(f"the path '{result.path}' is taken by an earlier result path")
        found.append(result)
    return tuple(found)

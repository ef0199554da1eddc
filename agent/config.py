"""Configuration: every setting of the agent, its default, and why that default.

Where values come from is in `configload`. Imports neither trio nor libp2p: the command line reads
it, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.mqtt.settings import (
    BrokerSettings,
    check_allowed,
    check_topics,
    read_brokers,
    read_prefix,
)
from agent.settings import (
    ADDRESS,
    FLAG,
    LABELS,
    PATH,
    WORD,
    WORDS,
    ConfigError,
    Kind,
    Setting,
    Value,
    about,
    choice,
    hours,
    number,
    one_of,
    quantity,
    read_word,
    share,
    share_of,
    words_of,
)

__all__ = ["BY_KEY", "SECTIONS", "SETTINGS", "Config", "ConfigError", "Loaded"]

if TYPE_CHECKING:
    from protocol.config import PolicyConfig

SYSTEM_DATA_DIR: Final = Path("/var/lib/shoal")  # file-hierarchy(7): state of a system service
DOCKER_SOCKET: Final = Path("/var/run/docker.sock")
SYSTEM_CONFIG: Final = Path("/etc/shoal/config.toml")  # of the installed service
SYSTEM_SOCKET: Final = Path("/run/shoal/shoal.sock")  # readable by a group; the data are not
SYSTEM_UNIT: Final = Path("/etc/systemd/system/shoal.service")  # where scripts/install puts it


@dataclass(frozen=True, slots=True)
class Offer:
    cpu: str = field(
        default="80%",
        metadata=about(
            share("parse_cpu_m"),
            "Processor for jobs, as a part of the device or an amount (2, 500m). The rest keeps "
            "the device's own work and this agent responsive.",
        ),
    )
    memory: str = field(
        default="60%",
        metadata=about(
            share("parse_size_bytes"),
            "Memory for jobs (60%, 512Mi). A device that swaps to its SD card is of no use to "
            "anybody.",
        ),
    )
    disk: str = field(
        default="50%",
        metadata=about(
            share("parse_size_bytes"),
            "Of the space free at the start, for shipped files, outputs and results (50%, 4Gi).",
        ),
    )

    def cpu_m(self, total_m: int) -> int:
        """Millicores offered of those the device has."""
        return share_of(self.cpu, total_m, "parse_cpu_m")

    def memory_bytes(self, total_bytes: int) -> int:
        return share_of(self.memory, total_bytes, "parse_size_bytes")

    def disk_bytes(self, free_bytes: int) -> int:
        return share_of(self.disk, free_bytes, "parse_size_bytes")


@dataclass(frozen=True, slots=True)
class Accept:
    roles: tuple[str, ...] = field(
        default=("submit",),
        metadata=about(
            WORDS,
            "Whose jobs run here: the author needs one of these roles. Every invited member has "
            "`submit` unless it was invited with `--role compute` alone.",
        ),
    )
    types: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            words_of(one_of("*", "batch", "ops", "daemon", "service"), least=1),
            "Types of jobs that run here: batch, ops, daemon, service; * is all of them. A device "
            "that somebody else depends on may take daemons and no batch work.",
        ),
    )
    engines: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            words_of(one_of("*", "process", "docker", "wasm"), least=1),
            "Engines whose tasks run here, of those the device has: process, docker, wasm; * is "
            "all of them. A process sees more of the device than a container does.",
        ),
    )
    namespaces: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            words_of(read_word, least=1),
            "Namespaces whose jobs run here; * is all of them.",
        ),
    )
    networks: tuple[str, ...] = field(
        default=("none", "bridge"),
        metadata=about(
            words_of(one_of("*", "none", "bridge", "host")),
            "Networks that containers may have: none, bridge (to the outside through this device), "
            "host (the device's own); * is all of them. A job that says nothing has a bridge, as "
            "in Bacalhau.",
        ),
    )
    ports: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            WORDS,
            "Ports of this device that containers may be reached at, a * at one end standing for "
            "any rest: 80*, 8080; dynamic are those that the device chooses itself. Who can reach "
            "the device can reach them.",
        ),
    )
    volumes: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            WORDS,
            "Names of volumes that jobs may keep here from one start to the next, a * at one end "
            "standing for any rest. Nothing but the disk bounds what is in them. Empty: none.",
        ),
    )
    devices: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Device files that containers may have, a * at the end standing for any rest: "
            "/dev/i2c-1, /dev/video*. Empty: none. A process reaches those its user may.",
        ),
    )
    capabilities: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Capabilities that containers may keep where their job asks for them (NET_ADMIN, "
            "CHOWN); all others are dropped.",
        ),
    )
    directories: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Directories of this device that jobs may have as input (localDirectory), with what is "
            "below: /srv/data. With :rw (/srv/out:rw) it may be written to, and is given as a "
            "whole or not at all. Empty: none.",
        ),
    )
    downloads: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            WORDS,
            "Hosts that inputs are downloaded from (urlDownload), a * at one end standing for any "
            "rest: *.example.org. The agent fetches them, from wherever it can reach.",
        ),
    )
    buckets: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Buckets that jobs may have inputs of (s3), as host/bucket, a * at one end standing "
            "for any rest: s3.amazonaws.com/readings, minio.lan:9000/*. With :rw "
            "(minio.lan:9000/results:rw) results may be published there, too. TLS is meant, unless "
            "a port is given, or http:// in front (http://minio.lan/readings): whoever is between "
            "reads that. The device's own credentials are used, see [s3]. Empty: none.",
        ),
    )
    topics: tuple[str, ...] = field(
        default=("#",),
        metadata=about(
            words_of(check_topics),
            "Topics that jobs may publish to at this device's brokers and with its login, and "
            "answers to messages, too, as filters: alarms/#, home/+/state; for {slot} and the like "
            "in a job's topic stands a + there. # is all but the shoal's own tree, where a job has "
            "its own results and lines alone. Empty: only those.",
        ),
    )
    environment: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Variables of the agent's own environment that a job may give its task by env:NAME, so "
            "that a secret stays on the device: API_TOKEN, SENSOR_*. Empty: none.",
        ),
    )
    authors: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Peers whose jobs run here, by id or by the name in their certificate; empty is every "
            "member with the role. Two devices can have one name, and no two one id.",
        ),
    )
    hours: tuple[str, ...] = field(
        default=(),
        metadata=about(
            words_of(hours),
            'When new jobs are taken, in local time, e.g. "22:00-06:00"; empty is always. What '
            "runs goes on to its end. While the device does not know the time it takes none.",
        ),
    )
    mains_only: bool = field(
        default=False,
        metadata=about(
            FLAG,
            "No new job while on battery. A device that cannot tell its power counts as on mains: "
            "most boards without a battery cannot.",
        ),
    )
    temperature_max_c: int = field(
        default=80,
        metadata=about(
            number(0, 150),
            "No new job above this temperature of the processor in degrees Celsius. A Raspberry "
            "Pi throttles at 80.",
        ),
    )
    battery_min_percent: int = field(
        default=20,
        metadata=about(
            number(0, 100),
            "No new job on battery below this charge: jobs shall not be what empties it.",
        ),
    )
    executions_max: int = field(
        default=64,
        metadata=about(
            number(1, 10_000),
            "Tasks at one time, however little each asks for: a bound on processes.",
        ),
    )
    job_timeout_max_s: int = field(
        default=30 * 86_400,
        metadata=about(
            quantity("parse_duration_s"),
            "Jobs that ask for a longer ExecutionTimeout are refused (3600, 12h, 30d); those "
            "that ask for none are not, as standing jobs.",
        ),
    )

    def policy(self, lacking: tuple[str, ...] = ()) -> PolicyConfig:
        """What the protocol's bidder goes by; `lacking` as there."""
        from protocol.config import PolicyConfig

        own = {part.name: getattr(self, part.name) for part in fields(self)}
        return PolicyConfig(**own, lacking=lacking)


@dataclass(frozen=True, slots=True)
class Task:
    user: str = field(
        default="",
        metadata=about(
            WORD,
            "User that tasks run as where the agent is root; they can read neither its key nor "
            "its socket then. Empty: shoal-task where it exists, else nobody. An agent that is "
            "not root runs them as itself.",
        ),
    )
    sandbox: str = field(
        default="auto",
        metadata=about(
            choice("auto", "always", "never"),
            "Whether programs run in a sandbox of bubblewrap: the device's files to read, no home, "
            "no sockets, no others' tasks. auto: those that ask for no network; those that have a "
            "directory to read in one that has all else of the device as it is. always: all, and "
            "none where it does not work; never: none, nor any that asks for no network.",
        ),
    )
    spawner: Path | None = field(
        default=None,
        metadata=about(
            PATH,
            "Unix socket of the program that starts tasks as a user of their own for an agent that "
            "is not root; the installed service has one. It decides the user.",
        ),
    )
    log_bytes_max: int = field(
        default=4 * 1024**2,
        metadata=about(
            quantity("parse_size_bytes"),
            "Output kept per execution and stream; the oldest goes first. 64 tasks then stay "
            "below half a gigabyte.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Docker:
    socket: Path | None = field(
        default=None,
        metadata=about(
            PATH,
            "Unix socket of docker, or of podman's docker API. Left out: that of DOCKER_HOST, else "
            "/var/run/docker.sock. Where nothing listens there, this device runs no containers.",
        ),
    )

    def path(self) -> Path:
        host = os.environ.get("DOCKER_HOST", "")
        if self.socket is None and host.startswith("unix://"):
            return Path(host.removeprefix("unix://"))
        return self.socket or DOCKER_SOCKET

    @property
    def named(self) -> bool:
        """Whether somebody has said where it is."""
        return self.path() != DOCKER_SOCKET


@dataclass(frozen=True, slots=True)
class S3:
    credentials: Path | None = field(
        default=None,
        metadata=about(
            PATH,
            "File with access keys as AWS' own tools have it, which the agent alone should be able "
            "to read. A profile that has the name of an endpoint's host, [minio.lan:9000], is for "
            "that one, others have `profile`. Left out: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY of the agent's environment, else the file that "
            "AWS_SHARED_CREDENTIALS_FILE names, else ~/.aws/credentials.",
        ),
    )
    profile: str = field(
        default="default",
        metadata=about(
            WORD,
            "Profile of that file for endpoints without one of their own. Where there is none, "
            "requests are not signed, which does for public buckets.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Mqtt:
    prefix: str = field(
        default="shoal",
        metadata=about(
            Kind("word", read_prefix),
            "The first part of all topics of this shoal's own: <prefix>/<shoal>/... Two shoals of "
            "one name that share a broker need different ones.",
        ),
    )
    allow: tuple[str, ...] = field(
        default=(),
        metadata=about(
            words_of(check_allowed),
            "What messages may command here: template/NAME to run a template, daemon/NAME to "
            "switch a daemon off and on everywhere, a * at the end standing for any rest. Empty: "
            "nothing. Whoever may publish at the broker can do that.",
        ),
    )
    brokers: dict[str, BrokerSettings] = field(
        default_factory=dict,
        metadata=about(
            Kind("pairs", read_brokers),
            "Brokers by name, each its URL (mqtt://192.168.1.5), or a section of its own such as "
            "[mqtt.brokers.home] with url, version (5 or 3.1.1), user, password_file or credential "
            "(of systemd), ca_file, cert_file, key_file, client_id, keepalive_s, session_s (how "
            "long it keeps messages of triggers while this device is away; a week), report, "
            "home_assistant (true: a Home Assistant there is told of this device, its templates "
            "and daemons), home_assistant_prefix.",
            "--mqtt-broker",
        ),
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    listen: str = field(
        default="",
        metadata=about(
            ADDRESS,
            "Where Prometheus finds /metrics over TCP, 127.0.0.1:9464 for instance; whoever "
            "reaches it may read them, and do nothing else. Empty: only on the control socket.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Log:
    format: str = field(
        default="human",
        metadata=about(
            choice("human", "json"),
            "One line per event for people, or one JSON object.",
        ),
    )
    level: str = field(
        default="info",
        metadata=about(
            choice("debug", "info", "warning", "error"),
            "The least important line that is written. debug tells of every message between "
            "peers, which wears out an SD card.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Config:
    data_dir: Path = field(
        default=SYSTEM_DATA_DIR,
        metadata=about(
            PATH,
            "Where the agent keeps its identity, database, outputs and shipped files. For root "
            "/var/lib/shoal, for others ~/.local/share/shoal.",
        ),
    )
    name: str = field(
        default="",
        metadata=about(
            WORD,
            "What people call this device. Empty: the name in its certificate.",
        ),
    )
    listen: tuple[str, ...] = field(
        default=("/ip4/0.0.0.0/tcp/4747",),
        metadata=about(
            WORDS,
            "Addresses to listen on, as multiaddrs. A fixed port can be let through a firewall "
            "and remembered by others; port 0 takes any that is free.",
        ),
    )
    announce: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Addresses to tell others instead of those found on the interfaces; for a device "
            "behind a forwarded port.",
        ),
    )
    bootstrap: tuple[str, ...] = field(
        default=(),
        metadata=about(
            WORDS,
            "Addresses of members to dial at the start, with /p2p/PEER. Members on the same LAN "
            "find each other without.",
        ),
    )
    mdns: bool = field(
        default=True,
        metadata=about(
            FLAG,
            "Find and be found on the local network. Costs a few packets a minute.",
        ),
    )
    trust_clock: bool = field(
        default=False,
        metadata=about(
            FLAG,
            "The time of this device is kept right by what the agent cannot see, as in a virtual "
            "machine or container. Otherwise it is believed where there is a hardware clock or "
            "the kernel follows a time server: until then nothing expires, no schedule fires.",
        ),
    )
    preset: str = field(
        default="lan",
        metadata=about(
            choice("lan", "wan", "metered"),
            "How fast a silent device is held for dead, against idle traffic: lan 6 s and 60 KB a "
            "minute, wan 31 s and 30 KB, metered 6 min and 10 MB a month.",
        ),
    )
    socket: Path | None = field(
        default=None,
        metadata=about(
            PATH,
            "Unix socket of the control API. Left out: shoal.sock in the data directory, and "
            "/run/shoal/shoal.sock for root, where a group may reach it.",
        ),
    )
    labels: dict[str, str] = field(
        default_factory=dict,
        metadata=about(
            LABELS,
            "What jobs can ask for with --constraint: name=value pairs, beside those that the "
            "agent finds by itself. `shoal label set` changes them while it runs.",
            "--label",
        ),
    )
    offer: Offer = field(default_factory=Offer)
    accept: Accept = field(default_factory=Accept)
    task: Task = field(default_factory=Task)
    docker: Docker = field(default_factory=Docker)
    s3: S3 = field(default_factory=S3)
    mqtt: Mqtt = field(default_factory=Mqtt)
    metrics: Metrics = field(default_factory=Metrics)
    log: Log = field(default_factory=Log)

    @property
    def socket_path(self) -> Path:
        if self.socket is not None:
            return self.socket
        if self.data_dir == SYSTEM_DATA_DIR:
            return SYSTEM_SOCKET
        return self.data_dir / "shoal.sock"


SECTIONS: Final[dict[str, type]] = {
    "offer": Offer,
    "accept": Accept,
    "task": Task,
    "docker": Docker,
    "s3": S3,
    "mqtt": Mqtt,
    "metrics": Metrics,
    "log": Log,
}


def _settings() -> Iterator[Setting]:
    for section, owner in (("", Config), *SECTIONS.items()):
        for part in fields(owner):
            if not part.metadata:
                continue
            key = f"{section}.{part.name}" if section else part.name
            default = {} if part.name in ("labels", "brokers") else part.default
            flag = part.metadata["flag"] or "--" + key.replace(".", "-").replace("_", "-")
            yield Setting(key, part.metadata["kind"], default, part.metadata["why"], flag)


SETTINGS: Final = tuple(_settings())
BY_KEY: Final = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each setting came from."""

    config: Config
    sources: dict[str, str]  # by key: default, file, env or flag, with its name
    file: Path | None  # the file that was read

    def view(self) -> dict[str, dict[str, object]]:
        """Each setting as {value, source}, ready for JSON; the socket as it is derived."""
        values = {"socket": self.config.socket_path}
        return {
            setting.key: {
                "value": _shown(values.get(setting.key, _get(self.config, setting.key))),
                "source": self.sources[setting.key],
            }
            for setting in SETTINGS
        }


def _get(config: Config, key: str) -> Value:
    value: Value = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _shown(value: Value) -> Value:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    if isinstance(value, BrokerSettings):
        return asdict(value)  # which holds names of files, and no secret
    return str(value) if isinstance(value, Path) else value

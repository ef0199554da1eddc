"""Readings: what an operator may want to watch of a running agent, looked up when somebody asks.

Nothing is counted for them that is not counted anyway, so that an agent that nobody scrapes pays
nothing. Labels are states, kinds and reasons of ours: never a job, a peer's text, or an id of
another, so that a series database is not filled by what people run. How they become text is in
`metrics`, which needs a library; here is plain data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from agent import durable
from agent.storefile import DATABASE_FILE
from agent.version import VERSION
from protocol.acceptance import end_of
from protocol.execution import State
from protocol.heldjob import HeldJob
from protocol.records import Desired
from protocol.roster import State as PeerState

if TYPE_CHECKING:
    from agent.main import Agent
    from agent.mqtt.broker import Broker

Labels = tuple[tuple[str, str], ...]

ONE_OFF_STATES = ("pending", "running", "stopping", "completed", "failed", "stopped")


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"  # starts at zero with the agent; its name ends in _total


@dataclass(frozen=True, slots=True)
class Reading:
    """One family: its name without `shoal_` and `_total`, and a value for each set of labels."""

    name: str
    kind: Kind
    help: str
    values: Mapping[Labels, float]


class Readings:
    """Looks at a running agent; about a millisecond, and quick whatever it holds."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def all(self) -> list[Reading]:
        """In the loop's thread, for that is where the agent's state may be read."""
        return [
            *self._device(),
            *self._shoal(),
            *self._jobs(),
            *self._bidding(),
            *self._network(),
            *self._loop(),
            *self._store(),
            *self._brokers(),
        ]

    def _device(self) -> Iterator[Reading]:
        agent = self._agent
        membership = agent.member.membership
        about = {
            "version": VERSION,
            "peer": agent.member.keyring.peer,
            "name": agent.name,
            "shoal": membership.shoal_name,
        }
        now, facts = agent.clock.now(), agent.driver.node.executor.bidder.facts
        help = "Always 1: which agent answers, in which version."
        yield Reading("build_info", Kind.GAUGE, help, {tuple(about.items()): 1})
        yield _gauge("uptime_seconds", "Since the agent started.", now.mono - agent.started_at)
        yield _gauge(
            "clock_trusted",
            "1 where the time is known to be right; else nothing expires, no schedule fires.",
            now.wall_trusted,
        )
        yield _gauge(
            "certificate_expiry_timestamp_seconds",
            "When this device's membership ends, as Unix time.",
            agent.member.certificate.expires_ms / 1000,
        )
        if facts.temperature_mc >= 0:
            yield _gauge("temperature_celsius", "Of the processor.", facts.temperature_mc / 1000)
        if facts.battery_percent >= 0:
            yield _gauge("battery_ratio", "Charge, 1 is full.", facts.battery_percent / 100)
        if agent.docker.presence.present:
            yield _gauge(
                "docker_trouble",
                "1 while docker was here once and does not answer.",
                bool(agent.docker.presence.trouble),
            )
        yield _gauge("cloned", "1 where two devices run with this identity.", bool(agent.cloned))

    def _shoal(self) -> Iterator[Reading]:
        agent = self._agent
        peers = Counter(peer.state for peer in agent.driver.node.membership.peers())
        yield Reading(
            "peers",
            Kind.GAUGE,
            "Other peers known here, by what is thought of them.",
            {_one("state", state.value): peers[state] for state in PeerState},
        )
        yield _gauge(
            "connections", "Members connected to this device.", len(agent.transport.connected())
        )

    def _jobs(self) -> Iterator[Reading]:
        node = self._agent.driver.node
        one_off = [held for held in node.jobs.values() if not held.service]
        found = Counter(_state_of(held) for held in one_off)
        yield Reading(
            "jobs",
            Kind.GAUGE,
            "Batch and ops jobs that this device keeps records of, by state.",
            {_one("state", state): found[state] for state in ONE_OFF_STATES},
        )
        standing = Counter(
            (job.kind, job.desired.name.lower())
            for job in node.steward.standing.jobs.values()
            if job.desired is not Desired.DELETED
        )
        yield Reading(
            "standing_jobs",
            Kind.GAUGE,
            "Daemons, services, schedules and templates of the shoal, by what is wanted of them.",
            {(("type", kind), ("desired", wanted)): n for (kind, wanted), n in standing.items()},
        )
        states = Counter(execution.state for execution in node.executor.executions.values())
        yield Reading(
            "executions",
            Kind.GAUGE,
            "Tasks of batch, ops and service jobs that ran here and are remembered, by state.",
            {_one("state", state.value): states[state] for state in State},
        )
        daemons = [each for each in node.steward.daemons.daemons.values() if each.active]
        yield _gauge("daemons_running", "Daemons that run here.", len(daemons))

    def _bidding(self) -> Iterator[Reading]:
        bidder = self._agent.driver.node.executor.bidder
        offered, reserved = bidder.capacity, bidder.reserved
        for name, what, there, taken, unit in (
            ("cpu_cores", "Processor cores", offered.cpu_m, reserved.cpu_m, 1000),
            ("memory_bytes", "Memory", offered.memory_bytes, reserved.memory_bytes, 1),
            ("disk_bytes", "Disk", offered.disk_bytes, reserved.disk_bytes, 1),
            ("gpus", "Graphics processors", offered.gpu, reserved.gpu, 1),
        ):
            yield _gauge(f"offered_{name}", f"{what} offered to jobs.", there / unit)
            yield _gauge(f"reserved_{name}", f"{what} that tasks and bids hold.", taken / unit)
        yield Reading(
            "announcements",
            Kind.COUNTER,
            "Jobs this device was asked to bid for, by its answer.",
            {_one("answer", answer): n for answer, n in bidder.answers.items()},
        )
        yield _gauge(
            "queued_jobs", "Jobs that wait for room on this device.", len(bidder.queue.waiters)
        )
        yield _gauge(
            "taking_work",
            "1 where new batch and service work is taken: neither drained nor unwell.",
            not bidder.draining and not bidder.unwell(),
        )

    def _brokers(self) -> Iterator[Reading]:
        """Their names are the owner's; nothing where none is configured."""
        brokers, node = list(self._agent.brokers), self._agent.driver.node
        if not brokers:
            return
        yield Reading(
            "broker_connected",
            Kind.GAUGE,
            "1 while the broker is connected to.",
            {_one("broker", each.name): each.connected for each in brokers},
        )
        outbox = node.publishing.outbox
        yield Reading(
            "broker_results_waiting",
            Kind.GAUGE,
            "Results that the broker has not acknowledged yet.",
            {_one("broker", each.name): outbox.waiting(each.name) for each in brokers},
        )
        triggers = node.steward.triggers
        yield _gauge(
            "trigger_messages_waiting",
            "Messages that were heard and have not become a job yet.",
            len(triggers.waiting.waiters),
        )
        yield Reading(
            "trigger_messages",
            Kind.COUNTER,
            "Messages heard for templates, by what became of them.",
            {_one("answer", answer): n for answer, n in triggers.answers.items()},
        )
        yield from self._broker_counters(brokers)

    def _broker_counters(self, brokers: Sequence[Broker]) -> Iterator[Reading]:
        counted = {each.name: each.counters() for each in brokers}
        bridge = self._agent.bridge
        for name, help, values in (
            (
                "broker_received_messages",
                "Messages that the broker sent here, of whichever kind.",
                {each: counts["received"] for each, counts in counted.items()},
            ),
            (
                "broker_unreadable_messages",
                "Messages of the broker that are none, and were dropped.",
                {each: counts["unreadable"] for each, counts in counted.items()},
            ),
            (
                "broker_dropped_messages",
                "Messages that the broker had no room for, of all its clients, as it says itself.",
                bridge.overruns.counting(),
            ),
            (
                "broker_line_dropped_bytes",
                "Bytes of tasks' lines that were gone before the broker had them.",
                {each.name: bridge.lines.dropped_bytes(each.name) for each in brokers},
            ),
        ):
            yield Reading(
                name, Kind.COUNTER, help, {_one("broker", each): n for each, n in values.items()}
            )

    def _network(self) -> Iterator[Reading]:
        counters, node = self._agent.transport.counters, self._agent.driver.node
        for name, what, received, sent in (
            ("network_bytes", "Bytes at the socket", counters.bytes_in, counters.bytes_out),
            ("frames", "Messages on streams", counters.frames_in, counters.frames_out),
            (
                "frame_bytes",
                "Bytes of messages on streams",
                counters.frame_bytes_in,
                counters.frame_bytes_out,
            ),
            ("gossip", "Rumours", counters.gossip_in, counters.gossip_out),
            (
                "gossip_bytes",
                "Bytes of rumours",
                counters.gossip_bytes_in,
                counters.gossip_bytes_out,
            ),
        ):
            values = {_one("direction", "received"): received, _one("direction", "sent"): sent}
            yield Reading(name, Kind.COUNTER, f"{what}.", values)
        yield _counter(
            "relayed_bytes", "Bytes of streams joined for others.", counters.relayed_bytes
        )
        yield _counter(
            "malformed_messages",
            "Messages from members that could not be read and were dropped.",
            sum(node.messaging.malformed.values()),
        )
        yield Reading(
            "transport_events",
            Kind.COUNTER,
            "What was dropped, refused or malformed below the messages, by reason.",
            {_one("reason", reason): n for reason, n in sorted(counters.events.items())},
        )

    def _loop(self) -> Iterator[Reading]:
        driver = self._agent.driver
        yield _counter("loop_wakes", "Deadlines of the agent that were waited for.", driver.wakes)
        yield _counter(
            "loop_late_seconds",
            "By how much they were noticed too late; over loop_wakes it is the loop's lag.",
            driver.late_s,
        )
        yield _gauge(
            "driver_queue_length", "Effects and saves that wait for the disk.", driver.waiting
        )
        yield _counter(
            "rebuilds", "Times the agent's state was read from disk anew.", driver.rebuilds
        )

    def _store(self) -> Iterator[Reading]:
        store = self._agent.store
        yield _counter("store_commits", "Transactions of the database.", store.commits)
        yield _counter("store_fsyncs", "Syncs to the disk for them.", store.fsyncs)
        yield _counter(
            "file_fsyncs", "Syncs of the agent's other files and directories.", durable.syncs()
        )
        yield _counter("store_written_bytes", "Bytes written for them.", store.bytes_written)
        yield _gauge("store_bytes", "Size of the database and its log.", _size(store.data_dir))
        yield _gauge(
            "disk_full", "1 while new work is refused for want of disk space.", store.disk_full
        )


def _one(label: str, value: str) -> Labels:
    return ((label, value),)


def _gauge(name: str, help: str, value: float) -> Reading:
    return Reading(name, Kind.GAUGE, help, {(): float(value)})


def _counter(name: str, help: str, value: float) -> Reading:
    return Reading(name, Kind.COUNTER, help, {(): float(value)})


def _state_of(held: HeldJob) -> str:
    """As `views` has it, without opening a record: a scrape must not check 10,000 signatures."""
    if held.done:
        return end_of(held)
    if held.desired is not Desired.RUNNING:
        return "stopping"
    begun = any(slot.assignment is not None for slot in held.slots)
    return "running" if begun or not held.closed else "pending"


def _size(data_dir: Path) -> int:
    total = 0
    for side in ("", "-wal"):
        try:
            total += (data_dir / f"{DATABASE_FILE}{side}").stat().st_size
        except OSError:
            continue
    return total

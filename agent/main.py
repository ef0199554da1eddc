"""The agent: puts store, node, engine, transport, discovery and control together, and runs them."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import asdict

from agent import durable, identity
from agent.archives import Archives, ByteStream, Dialler
from agent.archives import serve as serve_archive
from agent.backend import AgentBackend
from agent.checks import Checks
from agent.clock import Clock
from agent.conditions import Conditions
from agent.config import Loaded
from agent.control.backend import View
from agent.control.feed import Feed
from agent.control.scrapes import Scrapes
from agent.control.server import serve_control
from agent.cron import Calendar
from agent.device import Device
from agent.discovery import Discovery
from agent.doctor import Doctor
from agent.driver import Disk, Driver
from agent.engines.cards import Cards
from agent.engines.cgroups import Cgroups
from agent.engines.docker import DockerEngine
from agent.engines.engine import Engines
from agent.engines.process import ProcessEngine
from agent.engines.sandbox import Sandbox
from agent.engines.spawner import Spawner
from agent.engines.task import TaskUser
from agent.engines.wasm import Wasm
from agent.hardware import Hardware
from agent.inputs.downloads import BYTES_MAX, QUOTA_BYTES, Downloads
from agent.inputs.inputs import Inputs
from agent.inputs.objects import Objects
from agent.invites import Invites
from agent.join import serve_join
from agent.log import tell
from agent.logs import Logs
from agent.membership import Member, load_member
from agent.metrics import Metrics
from agent.mqtt.bridge import Bridge
from agent.mqtt.broker import Brokers
from agent.mqtt.commanding import Commanding
from agent.mqtt.homeassistant import About
from agent.mqtt.lasts import Lasts
from agent.mqtt.overruns import Overruns
from agent.mqtt.remembered import Remembered
from agent.mqtt.reports import Reports
from agent.mqtt.retained import Retained
from agent.mqtt.showing import Showing
from agent.notify import keep_patting, notify
from agent.outside import Outside, event_view
from agent.peers import Peers
from agent.publishing import Publishing, waiting
from agent.readings import Readings
from agent.results import ARCHIVE_BYTES_MAX, Results
from agent.results import QUOTA_BYTES as RESULT_QUOTA_BYTES
from agent.s3 import S3
from agent.settings import ConfigError
from agent.store import Store
from agent.storesql import StoreFailed
from agent.tasks import Tasks
from agent.transport import (
    ARCHIVE_PROTOCOL,
    JOIN_PROTOCOL,
    LOG_PROTOCOL,
    Stream,
    Transport,
    TransportEvent,
    TransportSettings,
)
from agent.version import VERSION
from agent.volumes import Volumes
from agent.waiting import wait_for_membership
from protocol.clock import Now
from protocol.config import (
    MembershipConfig,
    NodeConfig,
    OutboxConfig,
    PolicyConfig,
    ReportingConfig,
    TriggersConfig,
)
from protocol.effects import Tell
from protocol.errors import ShoalError
from protocol.events import ShutdownRequested
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.labels import PEER_LABEL
from protocol.node import Node
from protocol.wire import dumps, loads

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings stubs that hide trio's own

EVENTS_QUEUED: Final = 256  # from the transport; while it is full, reading from peers waits
REMEMBERED: Final = 1000  # events of earlier lives that `shoal events` begins with
FACTS_S: Final = 10.0  # temperature and load change no faster; a sample is a millisecond
ADDRESSES_S: Final = 15.0  # how soon a new network interface is told of
WALL_SAVED_S: Final = 3600.0  # the highest wall time goes to disk this often: an SD card wears out
TASK_USER: Final = "shoal-task"  # of the installer, for devices that tasks may use
GOODBYE_S: Final = 3.0  # for a slow disk; who stops a service waits longer (systemd: 90 s)
RESTART_S: Final = 60.0  # how long the others wait for an agent that was stopped, its tasks running
JOB_STATE: Final = ("name", "state", "reason", "type", "created_ms", "ended_ms", "count")
MEASURED: Final = (  # in millicores, bytes, thousandths, millidegrees; -1 where it cannot be told
    "cpu_free_m",
    "memory_free_bytes",
    "disk_free_bytes",
    "load_permille",
    "temperature_mc",
    "battery_percent",
    "mains",
)
SLOT_STATE: Final = ("slot", "state", "executor", "exit_code")
_log = logging.getLogger("shoal")


def run(loaded: Loaded, *, move_to_board: bool = False, wait: bool = False) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises ShoalError with a sentence where it cannot.

    `wait` for somebody to init or join through the socket, where this device is no member yet.
    """
    data_dir = loaded.config.data_dir
    if wait and not wait_for_membership(loaded):
        return
    if move_to_board:
        identity.adopt_board(data_dir)
    member = load_member(data_dir)
    if os.geteuid() == 0 or loaded.config.task.spawner:
        data_dir.chmod(0o711)  # tasks run as another user and pass through to their directories
    store = Store.open(data_dir)
    try:
        gc.freeze()  # what is imported stays: a full collection then looks at 50 MB less (measured)
        trio.run(_run, loaded, member, store)
    except BaseExceptionGroup as group:
        raise _alone(group) from None
    finally:
        store.close()


async def _run(loaded: Loaded, member: Member, store: Store) -> None:
    await Agent(loaded, member, store).run()


def _alone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The sentence in a group of errors, as nurseries wrap whatever ends them; where a bug is in
    it, all of it. What an `except*` raises comes out as a group again in Python 3.11.2."""
    sentences, bugs = group.split((ShoalError, ConfigError))
    if sentences is None or bugs is not None:
        return group
    error: BaseException = sentences
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Agent:
    """One running agent: its parts, and the tasks that keep them fed."""

    def __init__(self, loaded: Loaded, member: Member, store: Store) -> None:
        self.config = loaded.config
        self.member = member
        self.store = store
        self.clock = Clock(_saved_wall_s(store), self.config.trust_clock)
        self.name = self.config.name or member.certificate.name
        self.conditions = Conditions(self.config.data_dir)
        self._spawner = Spawner(self.config.task.spawner) if self.config.task.spawner else None
        own_user = _task_user(self.config.task.user)
        self._user = own_user if self._spawner is None else _spawned_user(self._spawner)
        self._sandbox = self._find_sandbox()
        self.s3 = S3(self.config.s3)
        self.driver = Driver(self._build, store, self.clock)
        data_dir = self.config.data_dir
        self.docker = self._docker()
        self._hardware = Hardware(docker=self.config.docker.path())
        processes = self._processes()
        self.wasm = Wasm(data_dir / "wasm", processes.user, processes.spawner)
        self.engines = Engines(processes, self.docker, self.wasm)
        self.archives = Archives(data_dir / "archives")
        spared = partial(waiting, self.engines)
        kept = Archives(data_dir / "results", ARCHIVE_BYTES_MAX, RESULT_QUOTA_BYTES, spared)
        self._stores = (self.archives, kept)
        self._send_events, self._events = trio.open_memory_channel[TransportEvent](EVENTS_QUEUED)
        self.transport = Transport(
            member.keyring,
            self._transport_settings(),
            self._send_events,
            clock=self.clock.now,
            on_clone=self._on_cloned,
            relays=self._relays,
        )
        dial_archives, me = self._dial(ARCHIVE_PROTOCOL), member.keyring.peer
        self.discovery = self._discovery()
        self.results = Results(kept, self.engines, dial_archives, me)
        self.volumes = Volumes(data_dir / "volumes", self._user, self.docker, self._spawner)
        self.publishing = Publishing(self.engines, kept, self.s3, me, lambda: self.clock.now().wall)
        self.tasks = Tasks(
            self.engines,
            self._inputs(kept, dial_archives),
            self.driver.post,
            self.config.task.log_bytes_max,
            self.results,
            self.publishing,
            self.volumes,
            Cards(self._hardware.gpus),
        )
        self.checks = Checks(self.engines, self.driver.post)
        self.feed = Feed(lambda: self.clock.now().wall_ms)
        for event in store.log.last(REMEMBERED):
            self.feed.put(event_view(event))
        self.logs = Logs(self.engines, self._dial(LOG_PROTOCOL), me)
        self.tasks.publishes = self._publishes
        self.brokers = self._brokers()
        self.bridge = self._bridge()
        self.invites = Invites(store, member, self._own_addresses, self.clock.now())
        self.doctor = Doctor(self)
        self.device = self._device()
        self.device.backlog = lambda: self.publishing.backlog
        self.device.disk_full = lambda: self.store.disk_full
        self.backend = self._backend(loaded)
        self.docker.images.standing = lambda: self.driver.node.steward.standing.images
        self.volumes.keeps = self._keeps_volumes
        self.scrapes = Scrapes(self.backend, self.config.metrics.listen)
        self.started_at = self.clock.now().mono
        self._stopping = trio.Event()
        self.cloned = ""
        self.outside = self._outside()

    def _backend(self, loaded: Loaded) -> AgentBackend:
        return AgentBackend(
            self.driver,
            self._peers(loaded.view()),
            self.feed,
            self.archives,
            self.invites,
            self.logs,
            self.results,
            self.clock,
            self._about,
            loaded.view(),
            self.doctor.checks,
            Metrics(Readings(self).all, self.config.data_dir, self.engines.process.outputs),
            self.stop,
        )

    def _inputs(self, kept: Archives, dial: Dialler) -> Inputs:
        files = Archives(self.config.data_dir / "downloads", BYTES_MAX, QUOTA_BYTES)
        policy = self.config.accept.policy()
        web, objects = Downloads(files), Objects(files, self.s3)
        return Inputs(self.archives, kept, web, objects, policy, dial, self._around)

    def _around(self) -> list[PeerId]:
        """All others that are alive: whoever is connected first, whoever pays for traffic last."""
        membership = self.driver.node.membership
        others = dict.fromkeys([*self.transport.connected(), *membership.alive()])
        return sorted(others, key=membership.is_leaf)

    def _keeps_volumes(self, job: JobId, standing: bool) -> bool:
        return self.driver.node.keeps_volumes(job, standing)  # which may be built anew

    def _processes(self) -> ProcessEngine:
        cgroups = Cgroups.find(self.member.keyring.peer[-8:])  # by now the spawner has made them
        root = self.config.data_dir / "executions"
        return ProcessEngine(
            root, self._user, cgroups=cgroups, sandbox=self._sandbox, spawner=self._spawner
        )

    def _find_sandbox(self) -> Sandbox | None:
        wanted = self.config.task.sandbox
        if wanted == "never":
            return None
        own = [self.config.data_dir, self.config.socket_path, self.config.docker.path()]
        if (home := Path.home()) != Path("/"):
            own.append(home)
        always, devices = wanted == "always", self.config.accept.devices
        return Sandbox.find(self._user, always, tuple(own), devices, self._spawner)

    def _policy(self) -> PolicyConfig:
        policy = self.config.accept.policy(self.s3.lacking)
        policy = replace(policy, topics_root=self._topics_root)
        return replace(policy, isolation=("network",)) if self._sandbox is not None else policy

    def _docker(self) -> DockerEngine:
        root, socket = self.config.data_dir / "containers", self.config.docker.path()
        return DockerEngine(root, socket, self.member.keyring.peer)

    def _brokers(self) -> Brokers:
        """Idle until `run`, and where none is configured for ever."""
        mqtt, member = self.config.mqtt, self.member
        rng = Random(os.urandom(16))
        return Brokers(mqtt.brokers, member.keyring.peer, self._topics_root, self._tell, rng)

    def _bridge(self) -> Bridge:
        brokers, post, me = self.brokers, self.driver.post, self.member.keyring.peer
        shoal, name = self.member.membership.shoal, self.member.membership.shoal_name
        rows = self.store.load().get("retained", {})
        about = About(me, shoal, name, VERSION, self._topics_root)
        return Bridge(
            brokers,
            self.engines,
            me,
            post,
            Reports(brokers, me, self.state, self._job_state),
            Remembered(self.store.data_dir / "mqtt-heard.json"),
            Showing(brokers, Retained(brokers, rows, self.store.save), self, about),
            Commanding(brokers, self.config.mqtt.allow, post),
            Lasts(brokers, lambda job: self.driver.node.views.last_run(JobId(job))),
            Overruns(brokers if self.config.mqtt.allow else (), self._tell),
        )

    @property
    def node(self) -> Node:
        return self.driver.node

    def now(self) -> Now:
        return self.clock.now()

    @property
    def _topics_root(self) -> str:
        return f"{self.config.mqtt.prefix}/{self.member.membership.shoal_name}"

    def _device(self) -> Device:
        return Device(
            self.config,
            self.member.membership.labels,
            self.transport.addresses,
            self.conditions,
            self._hardware,
            self.docker.presence,
            self.archives,
            self.wasm,
            self.s3,
            self.config.task.sandbox != "always" or self._sandbox is not None,
        )

    def _outside(self) -> Outside:
        return Outside(
            self.transport,
            self.tasks,
            self.checks,
            self.device,
            self.store,
            self.feed,
            self.clock,
            self._addresses_of,
            self.bridge,
        )

    def _peers(self, settings: View) -> Peers:
        def uptime_s() -> float:
            return self.clock.now().mono - self.started_at

        return Peers(self.driver, self.device, self.conditions, settings, self.redescribe, uptime_s)

    def _transport_settings(self) -> TransportSettings:
        config = self.config
        settings = TransportSettings(config.listen, config.announce, VERSION)
        return settings.on_metered_link() if self._membership_config().leaf else settings

    def _membership_config(self) -> MembershipConfig:
        return MembershipConfig.preset(self.config.preset)

    def _build(self, disk: Disk) -> Node:
        config = NodeConfig(
            membership=self._membership_config(),
            policy=self._policy(),
            outbox=OutboxConfig(root=self._topics_root),
            triggers=TriggersConfig(allow=self.config.mqtt.allow),
            reporting=self._reporting(),
            version=VERSION,
            name=self.name,
        )
        return Node(self.member.keyring, config, Random(os.urandom(16)), disk, Calendar())

    def _reporting(self) -> ReportingConfig:
        brokers = self.config.mqtt.brokers.items()
        return ReportingConfig(
            reports=tuple(name for name, each in brokers if each.report),
            introduces=tuple(name for name, each in brokers if each.home_assistant),
            discovery=tuple(
                (name, each.home_assistant_prefix) for name, each in brokers if each.home_assistant
            ),
        )

    # ---- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until told to stop; then the others are told, and tasks run on, supervised."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._on_signals)
            nursery.start_soon(self.wasm.look)  # beside all that takes its time
            self._serve_streams()
            await nursery.start(self.transport.run)
            await nursery.start(self.docker.run)
            await self.wasm.looked.wait()  # what runs from earlier is kept where its engine is here
            await nursery.start(self.tasks.run)
            await nursery.start(self.checks.run)
            await nursery.start(self.driver.run, self.outside)
            nursery.start_soon(self.bridge.run)
            nursery.start_soon(self._take_events)
            nursery.start_soon(self._discover)
            nursery.start_soon(self._sample)
            nursery.start_soon(self._redescribe)
            nursery.start_soon(self._keep_wall)
            nursery.start_soon(self.backend.run)
            nursery.start_soon(self.scrapes.run)
            path = await nursery.start(serve_control, self.backend, self.config.socket_path)
            addresses = ", ".join(self.transport.addresses()) or "nothing"
            who = (
                f"peer {self.member.keyring.peer[-8:]} of shoal {self.member.membership.shoal_name}"
            )
            tell(_log, "agent.up", f"{self.name} is up: {who}, control at {path}, on {addresses}")
            notify("READY=1")
            nursery.start_soon(keep_patting, self.driver.turn)
            await self._stopping.wait()
            with trio.move_on_after(GOODBYE_S):
                await self._say_goodbye()  # while all that brings it to the others still runs
            nursery.cancel_scope.cancel()
        self.engines.process.close()
        await self.store.aclose()

    def stop(self) -> None:
        self._stopping.set()

    def _own_addresses(self) -> tuple[str, ...]:
        """With /p2p, as a token names them."""
        me = self.member.keyring.peer
        return tuple(f"{address}/p2p/{me}" for address in self.transport.addresses())

    def _addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        known = self.driver.node.membership.peer(peer)
        return known.addresses if known is not None else ()

    def _relays(self, neighbours: Sequence[PeerId]) -> list[PeerId]:
        return self.driver.node.membership.partners(neighbours)

    def _dial(self, protocol_id: str) -> Dialler:
        async def dial(peer: PeerId) -> ByteStream:
            self.transport.learn(peer, self._addresses_of(peer))
            through = self.driver.node.membership.routes.through(peer)
            return await self.transport.open_stream(peer, protocol_id, through)

        return dial

    def _on_cloned(self, peer: PeerId) -> None:
        """Somebody else runs with this peer's key, or with ours."""
        name = self.driver.node.name_of(peer)
        self.cloned = (
            f"two devices run with the identity of {name}: give one of them its own with "
            "`shoal join --new-identity TOKEN`"
        )
        self.outside.tell(Tell("peer.cloned", self.cloned, peer=peer))

    def _tell(self, tell: Tell) -> None:
        self.outside.tell(tell)  # which is made after those who tell

    def _about(self) -> View:
        membership = self.member.membership
        return {
            "peer": self.member.keyring.peer,
            "name": self.name,
            "shoal": membership.shoal,
            "shoal_name": membership.shoal_name,
            "version": VERSION,
            "uptime_s": int(self.clock.now().mono - self.started_at),
            "addresses": list(self.transport.addresses()),
            "engines": list(self.driver.node.executor.bidder.engines),
            "data_dir": str(self.config.data_dir),
            "pid": os.getpid(),
            "bytes_sent": self.transport.counters.bytes_out,
            "bytes_received": self.transport.counters.bytes_in,
            "counters": self.transport.counters.snapshot(),
            "commits": self.store.commits,
            "fsyncs": self.store.fsyncs + durable.syncs(),
            "bytes_written": self.store.bytes_written,
        }

    def state(self) -> tuple[View, View]:
        """What brokers are told of this device, and what is measured of it."""
        bidder, advert = self.driver.node.executor.bidder, self.driver.node.advert
        labels = advert.labels if advert is not None else {}
        about = {
            "peer": self.member.keyring.peer,
            "name": self.name,
            "shoal": self.member.membership.shoal_name,
            "version": VERSION,
            "labels": {**labels, PEER_LABEL: self.member.keyring.peer},
            "engines": list(bidder.engines),
            "draining": bidder.draining,
            "takes_no_work": bidder.unwell(),
            "problems": self.doctor.failing(),
            "running": len(bidder.used),
        }
        return about, {k: v for k, v in asdict(bidder.facts).items() if k in MEASURED}

    def _job_state(self, job: str) -> View | None:
        """Of a one-off job that this device coordinates, in short."""
        view: View | None = self.driver.node.views.led_job(JobId(job))
        if view is None:
            return None
        slots = [{key: slot[key] for key in SLOT_STATE} for slot in view["slots"]]
        return {"job": job, **{key: view[key] for key in JOB_STATE}, "slots": slots}

    def _publishes(self, execution: ExecutionId) -> bool:
        executions = self.driver.node.executor.executions  # of the node that there is just then
        return execution in executions and executions[execution].publishes

    async def _say_goodbye(self) -> None:
        """A stop may be a restart: tasks run on, and the others wait for us a while."""
        notify("STOPPING=1")
        self.driver.post(ShutdownRequested(back_in_s=RESTART_S))
        rows = ("meta", "wall", dumps(self.clock.now().wall_ms))
        with contextlib.suppress(StoreFailed):  # the driver has told of it
            await self.store.save([rows])  # behind everything that was saved before it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.brokers.say_goodbye)
            await trio.sleep(0.2)  # for the goodbye to leave

    async def _on_signals(self, *, task_status: TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                tell(_log, "agent.stopping", f"{name}: stopping; tasks run on")
                self.stop()

    def _serve_streams(self) -> None:
        now = self.clock.now

        async def join(stream: Stream) -> None:
            await serve_join(stream, stream.peer, self.invites, now)

        async def archives(stream: Stream) -> None:
            await serve_archive(stream, self._stores)

        self.transport.serve(JOIN_PROTOCOL, join, members_only=False)
        self.transport.serve(ARCHIVE_PROTOCOL, archives, members_only=True)
        self.transport.serve(LOG_PROTOCOL, self.logs.serve, members_only=True)

    async def _take_events(self) -> None:
        async for event in self._events:
            self.outside.note(event)
            self.driver.post(event)

    def _discovery(self) -> Discovery:
        config, membership = self.config, self.member.membership
        return Discovery(
            self.member.keyring.peer,
            membership.shoal,
            self.transport.addresses,
            bootstrap=(*config.bootstrap, *membership.addresses),
            mdns=config.mdns,
        )

    async def _discover(self) -> None:
        def found(peer: PeerId, addresses: tuple[str, ...]) -> None:
            """Who is known for a leaf keeps the connections that it wants itself."""
            leaf = self.driver.node.membership.is_leaf(peer)
            self.transport.sighted(peer, addresses, keep=not leaf)

        await self.discovery.run(found)

    async def _sample(self) -> None:
        self.publishing.on_backlog = self._sample_now  # its place is taken at once
        self.store.on_full = self._sample_now  # before the reserve goes to what comes next
        while True:
            if self.store.disk_full:
                with contextlib.suppress(StoreFailed):  # it stays full
                    await self.store.refill_reserve()
            self._sample_now()
            await trio.sleep(FACTS_S)

    def _sample_now(self) -> None:
        running = len(self.driver.node.executor.bidder.used)
        self.driver.post(self.device.sample(running))

    async def _redescribe(self) -> None:
        """Tell of new addresses when an interface comes or goes, and of devices plugged in."""
        while True:
            await trio.sleep(ADDRESSES_S)
            self.redescribe()

    def redescribe(self) -> None:
        described = self.device.describe()
        if described != self.outside.described:
            self.outside.described = described
            self.driver.post(described)

    async def _keep_wall(self) -> None:
        while True:
            await trio.sleep(WALL_SAVED_S)
            now = self.clock.now()
            if now.wall_trusted:
                await self.store.save([("meta", "wall", dumps(now.wall_ms))])


def _saved_wall_s(store: Store) -> float:
    """The highest wall time of earlier lives."""
    wall = store.load().get("meta", {}).get("wall")
    saved = loads(wall) if wall is not None else 0
    return saved / 1000 if isinstance(saved, int) else 0.0


def _spawned_user(spawner: Spawner) -> TaskUser:
    try:
        return spawner.user()
    except (OSError, ValueError) as error:
        raise ConfigError(f"task.spawner: {error}") from None


def _task_user(name: str) -> TaskUser | None:
    """Whom tasks run as: the configured user; else, where the agent is root, one apart from it."""
    if not name:
        with contextlib.suppress(KeyError):
            return TaskUser.named(TASK_USER) if os.geteuid() == 0 else None
        return TaskUser.default()
    try:
        return TaskUser.named(name)
    except KeyError:
        raise ConfigError(f"task.user: this device has no user {name!r}") from None


if __name__ == "__main__":
    raise SystemExit("start the agent with `shoal up`")

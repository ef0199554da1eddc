"""The doctor: what may be wrong with this device, in sentences, with the way out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import durable
from agent.control.backend import View
from agent.devicechecks import (
    check,
    clock_check,
    disk_check,
    docker_checks,
    memory_checks,
    storage_checks,
)
from agent.jointoken import utc
from agent.mqtt.checkup import mqtt_checks
from agent.transport.addresses import parse
from agent.writes import process_bytes

if TYPE_CHECKING:
    from agent.main import Agent

RATED_S: Final = 600.0  # before this, what a start writes would count for far more than it does
# A card of 32 GB bears some 30 TB (1,000 cycles): at this pace that is 40 years, of which file
# systems, which write several times what they are given, and tasks' own files leave the fewer.
WRITTEN_A_DAY_MAX: Final = 2 * 1024**3
UNREAD_TOLD: Final = 3  # entries of the database, each with why; events tell of more
DAY_MS: Final = 86_400_000
FAILING_S: Final = 60.0  # it is told to brokers, who may read it all the time
EXPIRES_SOON_DAYS: Final = 60  # somebody has to go there perhaps


def _size(number: float) -> str:
    if number < 1024**2:
        return f"{number / 1024:.0f} KiB"
    return f"{number / 1024**2:.1f} MiB" if number < 1024**3 else f"{number / 1024**3:.1f} GiB"


class Doctor:
    """Looks at a running agent; each check is quick and changes nothing."""

    def __init__(self, agent: Agent, root: Path = Path("/")) -> None:
        """`root`: where the device's own files are looked for."""
        self._agent = agent
        self._root = root
        self._failing: list[str] = []
        self._failing_until = 0.0

    def failing(self) -> list[str]:
        """The checks that fail, looked at once a minute at most."""
        now = self._agent.clock.now().mono
        if now >= self._failing_until:
            self._failing_until = now + FAILING_S
            self._failing = [each["check"] for each in self.checks() if each["ok"] is False]
        return self._failing

    def checks(self) -> list[View]:
        config, presence = self._agent.config, self._agent.docker.presence
        return [
            self._identity(),
            clock_check(self._agent.clock),
            self._certificate(),
            disk_check(config.data_dir, self._agent.store.disk_full),
            *storage_checks(config.data_dir, self._root),
            self._database(),
            self._wear(),
            *self._metrics(),
            self._tasks(),
            *self._sandbox(),
            *memory_checks(self._root),
            *docker_checks(
                config.docker,
                self._root,
                answers=presence.present and not presence.trouble,
                known=presence.present,
            ),
            *self._wasm(),
            *self._s3(),
            *self._brokers(),
            self._work(),
            self._network(),
            self._ports(),
            self._mdns(),
            self._peers(),
            self._malformed(),
        ]

    def _identity(self) -> View:
        cloned = self._agent.cloned
        text = cloned or f"peer {self._agent.member.keyring.peer}, one device"
        return check("identity", not cloned, text, "`shoal join --new-identity TOKEN` on the copy")

    def _certificate(self) -> View:
        """Peers that trust their clocks turn away whose certificate is over."""
        now, expires_ms = self._agent.clock.now(), self._agent.member.certificate.expires_ms
        fix = (
            "`shoal invite` on another device; here stop the agent, `shoal join TOKEN`, and start "
            "it again: it stays the peer that it is"
        )
        until = utc(expires_ms)
        if not now.wall_trusted:
            return check("certificate", True, f"good until {until}")
        left = (expires_ms - now.wall_ms) // DAY_MS
        if left < 0:
            return check("certificate", False, f"over since {until}: others turn it away", fix)
        ok = True if left >= EXPIRES_SOON_DAYS else None
        return check("certificate", ok, f"good until {until}, {left} days more", fix)

    def _database(self) -> View:
        aside, unread = self._agent.store.was_corrupt, self._agent.driver.node.unreadable
        if unread:
            those = "; ".join(each.text for each in unread[:UNREAD_TOLD])
            more = len(unread) - UNREAD_TOLD
            those = f"{those}; and {more} more" if more > 0 else those
            count = f"{len(unread)} entries" if len(unread) > 1 else "1 entry"
            text = f"{count} of the database this version cannot read, and leaves alone: {those}"
            fix = (
                "update shoal, if a later version ran here before; what an earlier one took and "
                "this one refuses is to be run anew, with its job file mended; executions go with "
                "their output, and volumes of batch jobs, after a week"
            )
            return check("database", None, text, fix)
        if not aside:
            return check("database", True, "the database was whole at the start")
        what = "was missing" if aside == "missing" else f"was damaged and is kept as {aside}"
        fix = "nothing: it was begun anew; a card that damages files should be replaced"
        return check("database", None, f"the database {what}", fix)

    def _wear(self) -> View:
        """What the agent and its tasks' supervisors wrote; a card takes a thousand times its size.
        Where the kernel does not count what is stored, the database's is known all the same."""
        store, outputs = self._agent.store, self._agent.engines.process.outputs.look()
        uptime_s = self._agent.clock.now().mono - self._agent.started_at
        written = max(process_bytes() or 0, store.bytes_written) + outputs.bytes
        fsyncs = store.fsyncs + durable.syncs() + outputs.fsyncs
        text = f"{fsyncs} fsyncs and {_size(written)} since the agent started"
        if outputs.bytes:
            text = f"{text}, {_size(outputs.bytes)} of it output of tasks"
        if uptime_s < RATED_S:
            return check("writes", True, f"{text}, too short ago to say how much a day")
        days = uptime_s / 86_400
        text = f"{text}: {fsyncs / days:.0f} fsyncs and {_size(written / days)} a day"
        if written / days <= WRITTEN_A_DAY_MAX:
            return check("writes", True, text)
        fix = (
            "less often started tasks, tasks that print less, or a data directory (--data-dir) on "
            "a disk that bears it"
        )
        return check("writes", None, f"{text}, which wears out an SD card", fix)

    def _metrics(self) -> list[View]:
        """Nothing to say where they are on the control socket alone."""
        scrapes = self._agent.scrapes
        if scrapes.trouble:
            fix = "another address or port as [metrics] listen; it is tried again meanwhile"
            return [check("metrics", False, scrapes.trouble, fix)]
        if not scrapes.address:
            return []
        return [check("metrics", True, f"at http://{scrapes.address}/metrics")]

    def _tasks(self) -> View:
        user, cgroups = self._agent.engines.process.user, self._agent.engines.process.cgroups
        if user is not None and cgroups is not None:
            text = f"tasks run as user {user.uid}, apart from the agent, held to their memory"
            return check("tasks", True, text)
        if user is not None:
            return check(
                "tasks",
                None,
                f"tasks run as user {user.uid}, apart from the agent; rlimits end a process that "
                "takes memory without end, and nothing holds programs to what their jobs ask for, "
                "since the agent may make no control groups here",
                "on a Raspberry Pi add cgroup_enable=memory cgroup_memory=1 to the one line of "
                "/boot/firmware/cmdline.txt and reboot; containers are held to theirs meanwhile",
            )
        return check(
            "tasks",
            None,
            f"tasks run as the agent's own user ({os.getuid()}): a task can read this device's key "
            "and talk to its control socket",
            "install it as a service (scripts/install), run it as root (its tasks are nobody's "
            "then), or accept only jobs you trust",
        )

    def _sandbox(self) -> list[View]:
        """Where every program is to be in one: whether they are; else what it costs without."""
        if self._agent.config.task.sandbox != "always":
            return self._to_read()
        if self._agent.engines.process.sandbox is not None:
            return [check("sandbox", True, "every program runs in a sandbox of bubblewrap")]
        text = "no programs run here: [task] sandbox = always, and bubblewrap does not work"
        fix = "sudo apt install bubblewrap, and start the agent again; its log says what it misses"
        return [check("sandbox", False, text, fix)]

    def _to_read(self) -> list[View]:
        """Directories of the owner's that tasks are to write nothing to: whether that holds."""
        allowed = self._agent.config.accept.directories
        read = [path for path in allowed if not path.endswith(":rw")]
        if not read or self._agent.engines.process.sandbox is not None:
            return []
        text = (
            f"programs may be given {', '.join(read)} to read, and write there where their user may"
        )
        fix = (
            "sudo apt install bubblewrap, leave [task] sandbox at auto, and start the agent again; "
            "or see to it by the modes of the files"
        )
        return [check("sandbox", None, text, fix)]

    def _wasm(self) -> list[View]:
        """Nothing to say where it was never installed."""
        if not (trouble := self._agent.wasm.trouble):
            return []
        fix = (
            "install wasmtime anew (the service: `sudo scripts/install --wasm`; else pip install "
            "'shoal[wasm]'), and start the agent again"
        )
        return [check("wasm", None, f"no WebAssembly tasks here: {trouble}", fix)]

    def _s3(self) -> list[View]:
        """Nothing to say where its owner allows no bucket."""
        config, s3 = self._agent.config, self._agent.s3
        if not config.accept.buckets:
            return []
        if not s3.present:
            fix = (
                "the service: `sudo scripts/install --s3`; else pip install 'shoal[s3]', and start "
                "the agent again"
            )
            return [check("s3", None, "buckets are allowed, and s3 is not installed", fix)]
        if trouble := s3.trouble():
            return [check("s3", None, trouble, "see [s3] in `shoal config example`; chmod 600")]
        return [check("s3", True, "buckets are reached with keys that the agent alone can read")]

    def _brokers(self) -> list[View]:
        """Nothing to say where none is configured."""
        found, outbox = [], self._agent.driver.node.publishing.outbox
        for broker in self._agent.brokers:
            name, trouble, denied = f"broker {broker.name}", broker.trouble, broker.refusals
            count = outbox.waiting(broker.name)
            waits = f"; results that wait for it: {count}" if count else ""
            if trouble is not None:
                found.append(check(name, False, f"{trouble.text}{waits}", trouble.fix))
            elif not broker.connected:
                text = f"it is being connected to{waits}"
                found.append(check(name, None, text, "wait some seconds"))
            elif denied:
                topic, why = next(iter(denied.items()))
                text = f"connected; {len(denied)} topics are not allowed there, as {topic}: {why}"
                found.append(check(name, False, f"{text}{waits}", "see the broker's access list"))
            else:
                topics = self._agent.bridge.listening.heard_at(broker.name)
                hears = f"; triggers hear {', '.join(topics)}" if topics else ""
                silent = self._silent(broker.name)
                hears += f"; nothing came yet of {', '.join(silent)}" if silent else ""
                text = f"connected to {broker.settings.url}{hears}{waits}"
                found.append(check(name, True, text))
        return [*found, *mqtt_checks(self._agent), *self._outbox()]

    def _silent(self, broker: str) -> list[str]:
        """Topics that the broker grants and has sent nothing of since the agent started: Mosquitto
        grants those, too, that its access list denies. What a full disk puts off did come."""
        if self._agent.store.disk_full:
            return []
        watches = self._agent.driver.node.steward.triggers.watches.values()
        mine = [each for each in watches if each.mqtt.broker == broker and each.granted]
        return sorted({each.mqtt.topic for each in mine if not each.tally.heard})

    def _outbox(self) -> list[View]:
        """Results that wait for what nobody connects to any more wait for ever."""
        outbox, found = self._agent.driver.node.publishing.outbox, []
        for name in dict.fromkeys(message.broker for message in outbox.messages.values()):
            if name not in self._agent.brokers.names:
                text = f"{outbox.waiting(name)} results wait for broker {name}, which is unknown"
                fix = f"write [mqtt.brokers.{name}] into the configuration again"
                found.append(check("results", None, text, fix))
        if outbox.full:
            fix = "see the broker; no work that publishes is taken until it has taken them"
            found.append(check("results", False, outbox.full, fix))
        return found

    def _work(self) -> View:
        """A device that was drained for a repair and forgotten looks well in everything else."""
        bidder = self._agent.driver.node.executor.bidder
        if bidder.draining:
            return check(
                "work", None, "it drains: no batch or service work is taken", "`shoal peer undrain`"
            )
        if reason := bidder.unwell():
            fix = "wait, or change [accept] in its configuration"
            return check("work", None, f"no new work is taken just now: {reason}", fix)
        return check("work", True, "new work is taken, as its owner's [accept] says")

    def _network(self) -> View:
        addresses = self._agent.transport.addresses()
        if not addresses:
            return check("network", False, "no address to be reached at", "connect to a network")
        return check("network", True, f"listening on {', '.join(addresses)}")

    def _ports(self) -> View:
        """Whether others can dial this device, as far as that shows from here."""
        agent = self._agent
        routes, alive = agent.driver.node.membership.routes, agent.driver.node.membership.alive()
        around = sum(1 for peer in alive if routes.through(peer))
        ports = sorted({parse(text)[0].port for text in agent.transport.addresses()})
        listed = ", ".join(str(port) for port in ports) or "none"
        fix = f"let TCP port {listed} in (sudo ufw allow {listed}/tcp), here or on the other one"
        if around:
            text = f"{around} of {len(alive)} peers are reached through others only (TCP {listed})"
            return check("ports", None, text, fix)
        firewall = not alive and "ENABLED=yes" in _text(self._root / "etc/ufw/ufw.conf")
        if firewall:
            return check("ports", None, "nobody is reached, and a firewall (ufw) is on", fix)
        return check(
            "ports", bool(ports), f"TCP {listed}; every peer that is alive is reached", fix
        )

    def _mdns(self) -> View:
        discovery = self._agent.discovery
        if not self._agent.config.mdns:
            return check("mdns", True, "switched off; peers are found by bootstrap and memory")
        if discovery.trouble:
            fix = "is another program on UDP port 5353, or the network down? It is tried again"
            return check("mdns", None, f"not to be found on the LAN: {discovery.trouble}", fix)
        if discovery.heard:
            return check("mdns", True, f"{discovery.heard} peers were heard on the LAN")
        fix = (
            "if there are others on this LAN: let UDP port 5353 in (sudo ufw allow 5353/udp), "
            "switch client isolation of the Wi-Fi off, or name a member in bootstrap"
        )
        alone = not self._agent.driver.node.membership.peers()
        text = "announced on the LAN, and nobody else was heard there"
        return check("mdns", True if alone else None, text, fix)

    def _peers(self) -> View:
        node = self._agent.driver.node
        alive = len(node.membership.alive())
        known = len(node.membership.peers())
        connected = len(self._agent.transport.connected())
        refusals = [f"{code}: {text}" for code, text in self._agent.transport.refusals.values()]
        text = f"{alive} of {known} known peers are alive, {connected} connected"
        if refusals:
            return check("peers", False, f"{text}; refused by others: {refusals[-1]}", "see there")
        if not known:
            return check(
                "peers",
                None,
                "no other peer is known yet",
                "`shoal invite` here and `shoal join TOKEN` on the next device; or set bootstrap "
                "where mDNS does not reach",
            )
        return check("peers", alive > 0, text, "are the others switched on, and on this network?")

    def _malformed(self) -> View:
        """What no peer of this version sends: an old or new one, a bug, or somebody who tries."""
        node, counted = self._agent.driver.node, self._agent.transport.counters.events
        below = sum(n for reason, n in counted.items() if reason.startswith("malformed."))
        parts: list[str] = []
        if total := sum(node.messaging.malformed.values()):
            worst, count = max(node.messaging.malformed.items(), key=lambda item: item[1])
            name = node.name_of(worst) if worst else "gossip"
            parts.append(f"{total} malformed messages, {count} of them from {name}")
        if below:
            parts.append(f"{below} malformed streams or connections")
        if not parts:
            return check("messages", True, "nothing malformed was received")
        fix = "is a peer's version much older or newer? They were dropped, nothing else happened"
        return check("messages", None, "; ".join(parts), fix)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""

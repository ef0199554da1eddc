"""The doctor: what may be wrong with this device, in sentences, with the way out."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from agent.clock import synchronised
from agent.control.backend import View

if TYPE_CHECKING:
    from agent.main import Agent

RATED_S: Final = 600.0  # before this, what a start writes would count for far more than it does
# A card of 32 GB bears some 30 TB (1,000 cycles); at this pace that is 40 years of the database
# alone, and file systems write several times what they are given.
WRITTEN_A_DAY_MAX: Final = 2 * 1024**3
LOW_BYTES: Final = 100 * 1024**2  # a database, logs and a result still fit


def _size(number: float) -> str:
    if number < 1024**2:
        return f"{number / 1024:.0f} KiB"
    return f"{number / 1024**2:.1f} MiB" if number < 1024**3 else f"{number / 1024**3:.1f} GiB"


def check(name: str, ok: bool | None, text: str, fix: str = "") -> View:
    return {"check": name, "ok": ok, "text": text, "fix": "" if ok else fix}


class Doctor:
    """Looks at a running agent; each check is quick and changes nothing."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def checks(self) -> list[View]:
        return [
            self._identity(),
            self._clock(),
            self._disk(),
            self._database(),
            self._wear(),
            *self._metrics(),
            self._tasks(),
            *self._sandbox(),
            *self._wasm(),
            self._work(),
            self._network(),
            self._peers(),
            self._malformed(),
        ]

    def _identity(self) -> View:
        cloned = self._agent.cloned
        text = cloned or f"peer {self._agent.member.keyring.peer}, one device"
        return check("identity", not cloned, text, "`shoal join --new-identity TOKEN` on the copy")

    def _clock(self) -> View:
        now = self._agent.clock.now()
        if now.wall_trusted:
            by = "a time server" if synchronised() else "its own hardware clock"
            by = "whatever its owner trusts (trust_clock)" if self._agent.clock.told_right else by
            return check("clock", True, f"the time is kept by {by}")
        return check(
            "clock",
            None,
            "the time cannot be trusted: nothing expires and no schedule fires until it can",
            "connect to a network with a time server (timedatectl status); trust_clock = true in "
            "config.toml where the time is kept right in another way",
        )

    def _disk(self) -> View:
        data_dir = self._agent.config.data_dir
        free = shutil.disk_usage(data_dir).free
        text = f"{free >> 20} MiB free for {data_dir}"
        if self._agent.store.disk_full:
            text = f"the disk is full: new jobs are refused ({text})"
        ok = free > LOW_BYTES and not self._agent.store.disk_full
        return check("disk", ok, text, "free some space; finished outputs go first by themselves")

    def _database(self) -> View:
        aside = self._agent.store.was_corrupt
        if not aside:
            return check("database", True, "the database was whole at the start")
        what = "was missing" if aside == "missing" else f"was damaged and is kept as {aside}"
        fix = "nothing: it was begun anew; a card that damages files should be replaced"
        return check("database", None, f"the database {what}", fix)

    def _wear(self) -> View:
        """What the database wrote; a card takes some thousand times its size."""
        store = self._agent.store
        uptime_s = self._agent.clock.now().mono - self._agent.started_at
        text = f"{store.fsyncs} fsyncs and {_size(store.bytes_written)} since the agent started"
        if uptime_s < RATED_S:
            return check("writes", True, f"{text}, too short ago to say how much a day")
        days = uptime_s / 86_400
        fsyncs, written = store.fsyncs / days, store.bytes_written / days
        text = f"{text}: {fsyncs:.0f} fsyncs and {_size(written)} a day"
        if written <= WRITTEN_A_DAY_MAX:
            return check("writes", True, text)
        fix = "less often started tasks, or a data directory (--data-dir) on a disk that bears it"
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
                f"tasks run as user {user.uid}, apart from the agent; nothing holds programs to "
                "their memory, since the agent may make no control groups here",
                "on a Raspberry Pi add cgroup_enable=memory cgroup_memory=1 to the one line of "
                "/boot/firmware/cmdline.txt and reboot; containers are held to theirs meanwhile",
            )
        return check(
            "tasks",
            None,
            f"tasks run as the agent's own user ({os.getuid()}): a task can read this device's key "
            "and talk to its control socket",
            "run the agent as root (its tasks then run as nobody), or accept only jobs you trust",
        )

    def _sandbox(self) -> list[View]:
        """Where every program is to be in one: whether they are."""
        if self._agent.config.task.sandbox != "always":
            return []
        if self._agent.engines.process.sandbox is not None:
            return [check("sandbox", True, "every program runs in a sandbox of bubblewrap")]
        text = "no programs run here: [task] sandbox = always, and bubblewrap does not work"
        fix = "sudo apt install bubblewrap, and start the agent again; its log says what it misses"
        return [check("sandbox", False, text, fix)]

    def _wasm(self) -> list[View]:
        """Nothing to say where it was never installed."""
        if not (trouble := self._agent.wasm.trouble):
            return []
        fix = "install wasmtime anew (pip install 'shoal[wasm]'), and start the agent again"
        return [check("wasm", None, f"no WebAssembly tasks here: {trouble}", fix)]

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
        if total := sum(node.malformed.values()):
            worst, count = max(node.malformed.items(), key=lambda item: item[1])
            name = node.name_of(worst) if worst else "gossip"
            parts.append(f"{total} malformed messages, {count} of them from {name}")
        if below:
            parts.append(f"{below} malformed streams or connections")
        if not parts:
            return check("messages", True, "nothing malformed was received")
        fix = "is a peer's version much older or newer? They were dropped, nothing else happened"
        return check("messages", None, "; ".join(parts), fix)

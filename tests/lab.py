"""A lab: a real shoal of agents in processes of their own on loopback, for tests and the bench.

Certificates are written directly, as an administrator with the root key would; how a device joins
by token has its own tests. Everything the lab starts it stops, by pid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent.client import AgentError, Client
from agent.identity import create_identity
from agent.membership import Membership, issue_certificate, write_membership
from agent.shoalroot import ShoalCreated, create_shoal, recover_root
from protocol.records import Role

ROOT = Path(__file__).resolve().parent.parent
PASSPHRASE = "correct horse battery staple"
START_S = 90.0  # 20 agents on two cores import libp2p for a while
COMMAND_S: Final = 60.0  # no command that a test types takes longer
SHOAL: Final = ("-m", "agent.cli.entry")
LISTEN: Final = ("--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns")


class LabError(Exception):
    """Something did not happen in time; says what, and shows the agents' last words."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Device:
    """One agent's data directory, and its process while it runs."""

    name: str
    data_dir: Path
    peer: str
    process: subprocess.Popen[bytes] | None = None
    flags: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    listen: tuple[str, ...] = LISTEN
    within: tuple[str, ...] = ()  # what its agent's command is run by: a network of its own
    python: str = sys.executable
    root: Path = ROOT  # of the code that it runs: another version's has a Python of its own

    @property
    def socket(self) -> Path:
        return self.data_dir / "shoal.sock"

    def client(self, timeout_s: float = 30.0) -> Client:
        return Client(self.socket, timeout_s)

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    def log(self) -> str:
        path = self.data_dir / "agent.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""


class Lab:
    """`with Lab(3) as lab:` gives three agents that know each other."""

    def __init__(self, size: int, *, roles: tuple[Role, ...] = tuple(Role)) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="shoal-lab-"))
        self.directory.chmod(0o711)  # tasks of another user have to get to their directories
        self.devices: list[Device] = []
        self._root = None
        self._created: ShoalCreated | None = None
        for number in range(size):
            self.add(f"d{number:02d}", roles)

    def __enter__(self) -> Lab:
        try:
            self.start(*self.devices)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getitem__(self, number: int) -> Device:
        return self.devices[number]

    def add(self, name: str, roles: tuple[Role, ...] = tuple(Role)) -> Device:
        """A further device with a certificate of the same root; it does not run yet."""
        data_dir = self.directory / name
        if self._root is None:
            created = create_shoal(data_dir, "lab", PASSPHRASE, device=name)
            self._root = recover_root(created.backup, PASSPHRASE)
            peer = created.peer
        else:
            identity = create_identity(data_dir)
            peer = identity.peer
            certificate = issue_certificate(
                peer, name, roles, self._root.keyring, time.time_ns() // 1_000_000
            )
            shoal = self._root.shoal
            write_membership(
                data_dir, Membership(shoal=shoal, shoal_name="lab", certificate=certificate)
            )
        device = Device(name, data_dir, peer)
        self.devices.append(device)
        return device

    def blank(self, name: str) -> Device:
        """A device that belongs to no shoal yet; who joins with it fills in its peer."""
        device = Device(name, self.directory / name, "")
        self.devices.append(device)
        return device

    # ---- what a person types -----------------------------------------------------------------

    def shoal(self, device: Device, *words: str, cwd: Path | None = None, **more: Any) -> Done:
        """Run one command at a device, to its end; `more` as for subprocess.run."""
        done = subprocess.run(
            [*command_at(device), *words],
            check=False,
            cwd=cwd or (None if device.root == ROOT else device.root),
            env=environment_of(device),
            text=True,
            errors="replace",
            timeout=COMMAND_S,
            **{"stdin": subprocess.DEVNULL, "capture_output": True, **more},
        )
        return Done(done.returncode, done.stdout or "", done.stderr or "")

    def up(self, device: Device, *flags: str, **more: Any) -> Done:
        """`shoal up` where it is to end by itself, with a sentence."""
        return self.shoal(device, "up", *LISTEN, *flags, **more)

    # ---- starting and stopping ---------------------------------------------------------------

    def start(self, *devices: Device, wait: bool = True, bootstrap: bool = True) -> None:
        """Start them, the first one first: the others bootstrap from one that runs already.

        Without `bootstrap` they know each other from their tokens, or from earlier.
        """
        first = next((other for other in self.devices if other.process), None)
        for device in devices:
            flags = list(device.flags)
            if bootstrap and first is not None:
                flags += ["--bootstrap", self.address(first)]
            self._spawn(device, flags)
            if first is None:
                self.until(lambda device=device: answers(device), f"{device.name} answers")
                first = device
        if wait:
            for device in devices:
                self.until(lambda device=device: answers(device), f"{device.name} answers")
            self.wait_alive(*[device for device in self.devices if device.process])

    def _spawn(self, device: Device, flags: list[str]) -> None:
        with (device.data_dir / "agent.log").open("ab") as log:
            device.process = subprocess.Popen(
                [*device.within, *command_at(device), "up", *device.listen, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=device.root,
                env=environment_of(device),
                start_new_session=True,
            )

    def address(self, device: Device) -> str:
        with device.client() as client:
            return f"{client.status()['addresses'][0]}/p2p/{device.peer}"

    def kill(self, device: Device) -> None:
        """kill -9 of the agent alone: its tasks run on."""
        assert device.process is not None
        device.process.kill()
        device.process.wait()
        device.process = None

    def power_off(self, device: Device) -> None:
        """The agent and everything it started are gone at once."""
        tasks = supervisors_of(device)
        self.kill(device)
        for pid in {*tasks, *supervisors_of(device)}:
            kill_tree(pid)

    def freeze(self, device: Device) -> None:
        os.kill(device.pid, signal.SIGSTOP)

    def thaw(self, device: Device) -> None:
        os.kill(device.pid, signal.SIGCONT)

    def close(self) -> None:
        for device in self.devices:
            if device.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(device.process.pid, signal.SIGCONT)
                device.process.terminate()
        for device in self.devices:
            if device.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    device.process.wait(60)
                device.process.kill()
                device.process.wait()
                device.process = None
        # By their directories: what was forked as the agent ended may be no supervisor as yet, and
        # forks its task perhaps just as it is killed; and a device that was lost has left the list.
        end = time.monotonic() + START_S
        places = {self.directory, *(device.data_dir for device in self.devices)}
        while left := [pid for place in places for pid in processes_at(place)]:
            assert time.monotonic() < end, f"{left} do not end"
            for pid in left:
                kill_tree(pid)
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- waiting -----------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = START_S) -> Any:
        """Wait for a true answer; the condition may raise AgentError meanwhile, and LookupError
        where what it looks at is not listed yet."""
        end = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(AgentError, LookupError):
                if answer := condition():
                    return answer
            for device in self.devices:
                if device.process is not None and device.process.poll() is not None:
                    raise LabError(f"{device.name} ended while waiting: {what}\n{device.log()}")
            if time.monotonic() > end:
                logs = "\n".join(f"--- {d.name}\n{d.log()[-3000:]}" for d in self.devices)
                raise LabError(f"not within {timeout_s} s: {what}\n{logs}")
            time.sleep(0.05)

    def wait_alive(self, *devices: Device) -> None:
        """Until each of them holds all of them for alive."""
        wanted = {device.peer for device in devices}
        for device in devices:
            self.until(
                lambda device=device: wanted <= set(alive_at(device)), f"{device.name} knows all"
            )


def command_at(device: Device) -> list[str]:
    """`shoal`, as a person at this device would have it."""
    return [
        device.python,
        *SHOAL,
        "--data-dir",
        str(device.data_dir),
        "--socket",
        str(device.socket),
    ]


def environment_of(device: Device) -> dict[str, str]:
    """Ours without what is set for another agent; the code is found from any directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    # What runs on this machine is no part of a lab; who tests with docker names its socket.
    nothing = {"SHOAL_DOCKER_SOCKET": str(device.data_dir / "docker.sock")}
    return {**kept, **nothing, "PYTHONPATH": str(device.root), **device.environment}


def answers(device: Device) -> bool:
    with device.client(2.0) as client:
        return bool(client.status())


def alive_at(device: Device) -> list[str]:
    """Ids of the peers that a device holds for alive, itself among them."""
    with device.client() as client:
        return [peer["id"] for peer in client.peers() if peer["state"] in ("alive", "suspect")]


def supervisors_of(device: Device) -> list[int]:
    """Supervisors of the device's executions, by their working directory in /proc."""
    return processes_with(str(device.data_dir / "executions"))


def processes_with(argument: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if argument in (entry / "cmdline").read_bytes().decode("utf-8", "replace"):
                    found.append(int(entry.name))
    return found


def processes_at(directory: Path) -> list[int]:
    """That name it in their command, or work in it; dead ones do neither."""
    found = set(processes_with(str(directory)))
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(directory):
                    found.add(int(entry.name))
    return sorted(found)


def children_of(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)


def kill_tree(pid: int) -> None:
    """kill -9 of a process and all below it; the parent first, so that it can tell nobody."""
    below = list(children_of(pid))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in below:
        kill_tree(child)


def process_job(*command: str, name: str = "job", count: int = 1, **more: Any) -> dict[str, Any]:
    """A batch job as the API takes it; `more` are further top-level fields."""
    engine = {"Type": "process", "Params": {"Command": list(command)}}
    task: dict[str, Any] = {"Name": "main", "Engine": engine}
    task.update(more.pop("Task", {}))
    return {"Name": name, "Type": "batch", "Count": count, "Tasks": [task], **more}

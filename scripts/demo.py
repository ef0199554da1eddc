"""The demo: what a person would type, on three agents of this machine, with its real output."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHOAL = Path(sys.executable).with_name("shoal")
NAMES = ("kitchen", "attic", "garage")
LATE = "shed"
WAIT_S = 90.0
COUNT = """\
#!/bin/sh
# Lines of every third .py file, beginning with the one that this partition's number says.
find "$1" -name '*.py' | LC_ALL=C sort |
  awk -v n="$SHOAL_PARTITION_COUNT" -v i="$SHOAL_PARTITION_INDEX" 'NR % n == i' |
  tr '\\n' '\\0' | xargs -0 cat | wc -l
"""
DAEMON = """\
# On every device, now and later.
Name: collect
Type: daemon
Tasks:
  - Engine:
      Type: process
      Params:
        Command: 'echo collecting; exec sleep 1000'
"""
SERVICE = """\
# One copy, on whichever device has room; another one's when that is gone.
Name: page
Type: service
Tasks:
  - Engine:
      Type: process
      Params:
        Command: 'echo serving on "$SHOAL_PEER_ID"; exec sleep 1000'
"""
LONG = 'for i in $(seq 1 12); do echo "step $i of 12"; sleep 0.5; done'


class DemoFailed(Exception):
    """Something that the demo claims did not happen."""


class Demo:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.agents: dict[str, subprocess.Popen[bytes]] = {}

    # ---- what a person types -----------------------------------------------------------------

    def shoal(self, name: str, *words: str, show: bool = True, check: bool = True) -> str:
        """Run one command on a device; its output is shown and returned."""
        if show:
            print(f"\n{name}$ shoal {shlex.join(words)}", flush=True)
        done = subprocess.run(
            [SHOAL, "--data-dir", self.data_dir(name), "--socket", self.socket(name), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if show else subprocess.PIPE,
            text=True,
            check=False,
        )
        if show:
            print(done.stdout, end="", flush=True)
        if check and done.returncode:
            raise DemoFailed(
                f"shoal {shlex.join(words)} ended with {done.returncode}: "
                f"{done.stdout}{done.stderr or ''}"
            )
        return done.stdout

    def ask(self, name: str, *words: str) -> Any:
        return json.loads(self.shoal(name, *words, "--json", show=False))

    def data_dir(self, name: str) -> str:
        return str(self.directory / name)

    def socket(self, name: str) -> str:
        return str(self.directory / name / "shoal.sock")

    # ---- agents ------------------------------------------------------------------------------

    def up(self, name: str) -> None:
        log = (self.directory / f"{name}.log").open("ab")
        command = [SHOAL, "--data-dir", self.data_dir(name), "--socket", self.socket(name)]
        self.agents[name] = subprocess.Popen(
            [*command, "up", "--listen", "/ip4/127.0.0.1/tcp/0"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        print(f"\n{name}$ shoal up &", flush=True)
        self.until(lambda: bool(self.try_ask(name, "peers")), f"the agent of {name} answers")

    def try_ask(self, name: str, *words: str) -> Any:
        with contextlib.suppress(DemoFailed, json.JSONDecodeError):
            return self.ask(name, *words)
        return None

    def until(self, condition: Any, what: str) -> Any:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if answer := condition():
                return answer
            time.sleep(0.1)
        logs = "".join(path.read_text()[-2000:] for path in sorted(self.directory.glob("*.log")))
        raise DemoFailed(f"not within {WAIT_S:.0f} s: {what}\n{logs}")

    def power_off(self, name: str) -> None:
        """kill -9 of the agent, of its tasks and of their supervisors: the device lost power."""
        agent = self.agents.pop(name)
        doomed = [agent.pid, *self.task_processes(name)]
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.wait()

    def stop_agent(self, name: str) -> None:
        """As its service would be stopped: its tasks run on."""
        agent = self.agents.pop(name)
        agent.terminate()
        agent.wait(30)

    def task_processes(self, name: str) -> list[int]:
        """Supervisors of the device's executions, found by their arguments, and all below them."""
        root = self.data_dir(name) + "/executions"
        supervisors = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and root.encode() in (entry / "cmdline").read_bytes():
                    supervisors.append(int(entry.name))
        return [pid for supervisor in supervisors for pid in (supervisor, *below(supervisor))]

    def stop_all(self) -> None:
        for agent in self.agents.values():
            agent.terminate()
        for agent in self.agents.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(15)
            agent.kill()
            agent.wait()
        for name in (*NAMES, LATE):
            for pid in self.task_processes(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def below(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from below(int(child))


def say(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def found_shoal(demo: Demo) -> None:
    say("Three devices become a shoal")
    demo.shoal("kitchen", "init", "home", "--device", "kitchen")
    demo.up("kitchen")
    token = demo.ask("kitchen", "invite", "--uses", "2")["token"]
    print(f"\nkitchen$ shoal invite --uses 2\n{token}")
    for name in NAMES[1:]:
        demo.shoal(name, "join", token, "--name", name)
        demo.up(name)

    def all_alive() -> bool:
        peers = demo.try_ask("garage", "peers")
        peers = peers["peers"] if isinstance(peers, dict) else peers or []
        return sum(peer["state"] == "alive" for peer in peers) == len(NAMES)

    demo.until(all_alive, "garage knows all three")
    demo.shoal("garage", "peers")


def count_lines(demo: Demo) -> None:
    say("A job in three parts: the lines of Python's standard library")
    library = demo.directory / "stdlib"
    shutil.copytree(
        sysconfig.get_paths()["stdlib"],
        library,
        ignore=shutil.ignore_patterns("site-packages", "__pycache__"),
        ignore_dangling_symlinks=True,
    )
    script = demo.directory / "count.sh"
    script.write_text(COUNT)
    script.chmod(0o755)
    files = sorted(library.rglob("*.py"))
    expected = sum(path.read_bytes().count(b"\n") for path in files)
    print(f"{len(files)} files; counted by one process: {expected} lines", flush=True)
    demo.shoal(
        "kitchen", "run", "--name", "lines", "--count", "3", "-f", str(script), "--",
        "./count.sh", str(library),
    )  # fmt: skip
    view = demo.ask("kitchen", "job", "describe", "lines")
    parts = [int(slot["stdout_tail"].strip()) for slot in view["slots"]]
    print(f"\n{' + '.join(map(str, parts))} = {sum(parts)} lines, counted by the shoal")
    if sum(parts) != expected:
        raise DemoFailed(f"the shoal counted {sum(parts)} lines, one process {expected}")
    print(f"the same as one process counted: {expected}")
    demo.shoal("kitchen", "job", "why", "lines")


def run_everywhere(demo: Demo) -> None:
    say("A command on every device")
    told = demo.shoal("garage", "exec", "--all", "--", "uname", "-m")
    lines = {line for line in told.splitlines() if not line.startswith("shoal:")}
    machine = os.uname().machine
    if lines != {f"{name}: {machine}" for name in NAMES}:
        raise DemoFailed(f"not every device said that it is {machine}: {sorted(lines)}")


def lose_a_device(demo: Demo) -> str:
    say("A device loses power in the middle of a job")
    demo.shoal("kitchen", "run", "--name", "long", "--detach", "--", "sh", "-c", LONG)

    def winner() -> str:
        view = demo.try_ask("kitchen", "job", "describe", "long")
        slot = view["slots"][0] if view else {}
        return slot["executor_name"] if slot.get("state") == "running" else ""

    lost = demo.until(winner, "the job runs")
    time.sleep(2)
    pids = [demo.agents[lost].pid, *demo.task_processes(lost)]
    print(f"\nit runs on {lost}\n{lost}$ kill -9 {' '.join(map(str, pids))}", flush=True)
    demo.power_off(lost)
    survivor = next(name for name in NAMES if name != lost)
    demo.shoal(survivor, "job", "wait", "long")
    demo.shoal(survivor, "job", "logs", "long")
    demo.shoal(survivor, "job", "executions", "long")
    view = demo.ask(survivor, "job", "describe", "long")
    executor = view["slots"][0]["executor_name"]
    if view["state"] != "completed" or executor == lost:
        raise DemoFailed(f"the job is {view['state']} on {executor}")
    print(f"\n{lost} was lost, {executor} finished the job")
    demo.shoal(survivor, "peers")
    return lost


def attach_a_device(demo: Demo, lost: str) -> None:
    say("A daemon: on every device, and on each that joins later")
    demo.up(lost)
    file = demo.directory / "collect.yaml"
    file.write_text(DAEMON)
    print(f"\nattic$ cat collect.yaml\n{DAEMON}", end="")
    job = demo.shoal("attic", "job", "run", str(file)).splitlines()[-1]
    demo.until(lambda: collecting(demo, job, "attic") == set(NAMES), "it runs on all three")
    demo.shoal("kitchen", "job", "describe", "collect")
    token = demo.ask("kitchen", "invite")["token"]
    print("\nattic$ systemctl stop shoal    # whoever ran it is gone", flush=True)
    demo.stop_agent("attic")
    demo.shoal(LATE, "join", token, "--name", LATE)
    demo.up(LATE)
    demo.until(lambda: LATE in collecting(demo, job, LATE), "it runs on the new device")
    demo.shoal(LATE, "job", "logs", "collect")
    demo.shoal(LATE, "job", "list", "--type", "daemon")
    demo.up("attic")
    everybody = {*NAMES, LATE}
    demo.until(lambda: collecting(demo, job, "attic") == everybody, "all are there again")
    demo.shoal("attic", "job", "delete", "collect")
    demo.until(lambda: not any(map(demo.task_processes, everybody)), "it is gone everywhere")


def outlive_a_device(demo: Demo) -> None:
    say("A service: kept running on some device, whichever dies")
    file = demo.directory / "page.yaml"
    file.write_text(SERVICE)
    print(f"\nattic$ cat page.yaml\n{SERVICE}", end="")
    job = demo.shoal("attic", "job", "run", str(file)).splitlines()[-1]
    lost = demo.until(lambda: serving(demo, job, "attic"), "it runs")
    demo.shoal("attic", "job", "describe", "page")
    pids = [demo.agents[lost].pid, *demo.task_processes(lost)]
    print(f"\nit runs on {lost}\n{lost}$ kill -9 {' '.join(map(str, pids))}", flush=True)
    demo.power_off(lost)
    survivor = next(name for name in NAMES if name != lost)
    now = demo.until(
        lambda: {serving(demo, job, survivor)} - {"", lost}, "it runs on another device"
    )
    demo.shoal(survivor, "job", "describe", "page")
    print(f"\n{lost} was lost, {now.pop()} runs it")
    demo.up(lost)
    demo.shoal("attic", "job", "delete", "page")
    everybody = {*NAMES, LATE}
    demo.until(lambda: not any(map(demo.task_processes, everybody)), "it is gone everywhere")


def serving(demo: Demo, job: str, at: str) -> str:
    """The device on which the service runs, empty while none does."""
    view = demo.try_ask(at, "job", "describe", job) or {"slots": []}
    hosts = [slot["executor_name"] for slot in view["slots"] if slot["state"] == "running"]
    return hosts[0] if hosts else ""


def collecting(demo: Demo, job: str, at: str) -> set[str]:
    """The devices on which it runs, as far as they answer."""
    view = demo.try_ask(at, "job", "describe", job) or {"parts": []}
    return {part["peer_name"] for part in view["parts"] if part["state"] == "running"}


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    directory.chmod(0o711)  # tasks run as another user and have to reach their directories
    demo = Demo(directory)
    try:
        found_shoal(demo)
        count_lines(demo)
        run_everywhere(demo)
        lost = lose_a_device(demo)
        attach_a_device(demo, lost)
        outlive_a_device(demo)
    except DemoFailed as failure:
        print(f"\nThe demo failed: {failure}", file=sys.stderr)
        return 1
    finally:
        demo.stop_all()
        shutil.rmtree(directory, ignore_errors=True)
    say("Done: everything that was started has been stopped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Network namespaces: hosts, cables, a switch and NAT routers of a test, made and removed by name.

Nothing outside of them is touched: even the bridge stands in a namespace. Names carry the process
that made them, so that whoever comes next removes what a killed test has left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Final

MARK: Final = "shoalnet"  # the first part of each name
EMPTY_S: Final = 10.0  # until killed processes have left a namespace
_numbers = count()


class NamespaceError(Exception):
    """The network cannot be made, and why."""


class Namespaces:
    """Those of one lab. `close` ends whatever runs in them, by pid, and removes them."""

    def __init__(self) -> None:
        check()
        sweep()
        self._prefix = f"{MARK}-{os.getpid()}-{born(os.getpid())}-{next(_numbers)}"
        self._made: list[str] = []

    def add(self, name: str) -> str:
        """A namespace with loopback up; its full name."""
        full = f"{self._prefix}-{name}"
        run("ip", "netns", "add", full)
        self._made.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def bridge(self, namespace: str, name: str) -> None:
        """A switch inside `namespace`."""
        run(*f"ip -n {namespace} link add {name} type bridge mcast_snooping 0".split())
        run(*f"ip -n {namespace} link set {name} up".split())

    def cable(self, namespace: str, name: str, switch: str, port: str, bridge: str) -> None:
        """From interface `name` in `namespace` to `port` of `bridge` in the namespace `switch`."""
        ends = f"link add {port} netns {switch} type veth peer name {name} netns {namespace}"
        run("ip", *ends.split())
        run(*f"ip -n {switch} link set {port} master {bridge} up".split())
        run(*f"ip -n {namespace} link set {name} up".split())

    def link(self, namespace: str, interface: str, state: str) -> None:
        """Up or down."""
        run(*f"ip -n {namespace} link set {interface} {state}".split())

    def address(self, namespace: str, interface: str, address: str) -> None:
        run(*f"ip -n {namespace} addr add {address} dev {interface}".split())

    def default_route(self, namespace: str, gateway: str) -> None:
        run(*f"ip -n {namespace} route add default via {gateway}".split())

    def nft(self, namespace: str, rules: str) -> None:
        run("ip", "netns", "exec", namespace, "nft", "-f", "-", stdin=rules)

    def forwarding(self, namespace: str) -> None:
        """Let `namespace` route between its interfaces."""
        script = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        run("ip", "netns", "exec", namespace, "sh", "-c", script)

    def carried(self, namespace: str, interface: str) -> tuple[int, int]:
        """Bytes that `interface` has sent and received."""
        shown = json.loads(run("ip", "-n", namespace, "-j", "-s", "link", "show", interface))
        figures = shown[0]["stats64"]
        return int(figures["tx"]["bytes"]), int(figures["rx"]["bytes"])

    def close(self) -> None:
        for name in self._made:
            remove(name)
        self._made.clear()


def check() -> None:
    """Raises NamespaceError with the way out where no namespace can be made."""
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        raise NamespaceError(f"{' and '.join(missing)} missing: run scripts/setup as root")
    if os.geteuid() != 0:
        raise NamespaceError("tests with networks of their own make namespaces: run them as root")


def run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(
        command, check=False, input=stdin, capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        raise NamespaceError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def sweep() -> None:
    """Remove what tests have left that were killed themselves."""
    for name in existing():
        _, pid, start, *_ = name.split("-")
        if born(int(pid)) != int(start):
            remove(name)


def existing() -> list[str]:
    """All namespaces that labs have made, by whichever process."""
    listed = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()]
    return [name for name in listed if name.startswith(f"{MARK}-")]


def born(pid: int) -> int:
    """When a process started, in ticks since boot, since a pid comes again; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rsplit(")", 1)[1].split()[19])


def remove(name: str) -> None:
    """End what runs in it, by pid; then its interfaces go with it."""
    end = time.monotonic() + EMPTY_S
    while pids := _pids(name):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise NamespaceError(f"{name} is still used by {pids}")
        time.sleep(0.02)
    with contextlib.suppress(NamespaceError):  # another lab's sweep may have come first
        run("ip", "netns", "del", name)


def _pids(name: str) -> list[int]:
    """Whatever runs in it and is more than a zombie of ours."""
    try:
        listed = run("ip", "netns", "pids", name).split()
    except NamespaceError:
        return []
    return [int(pid) for pid in listed]

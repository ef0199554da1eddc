"""Another device's agent over ssh: its socket, carried on the standard streams of `shoal _relay`.

Nothing has to be forwarded or left behind on either side, and whatever ssh knows (keys, agents,
jump hosts, ControlMaster) works. Every connection is an ssh process of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote, urlsplit

from agent.cli.exitcodes import NO_AGENT, USAGE, CliError
from agent.client import Unreachable

REMOTE_COMMAND: Final = "SHOAL_REMOTE_COMMAND"  # where `shoal` is not on the PATH over there
END_S: Final = 3.0  # for ssh to tell how it ended

_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\]-]{0,253}")


class SshRoute:
    """A way to an agent: ssh://[user@]host[:port][/data/dir]."""

    def __init__(self, url: str) -> None:
        """Raises CliError where the address is not one."""
        self.destination, self._options, self._data_dir = parse_host(url)
        self._processes: list[subprocess.Popen[bytes]] = []

    def connect(self, timeout_s: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        command = [*shlex.split(os.environ.get(REMOTE_COMMAND, "shoal")), "_relay"]
        if self._data_dir:
            command += ["--data-dir", self._data_dir]
        # -T: no terminal, its line discipline would spoil the bytes. ServerAlive: a dead network
        # ends the stream instead of leaving it silent for ever.
        ssh = ["ssh", "-T", "-o", "ServerAliveInterval=15", "-o", "ConnectTimeout=15"]
        ssh += [*self._options, "--", self.destination, shlex.join(command)]
        try:
            with _interrupts_ignored(), theirs:
                end = theirs.fileno()
                self._processes.append(subprocess.Popen(ssh, stdin=end, stdout=end))
        except FileNotFoundError:
            ours.close()
            raise Unreachable(
                "there is no ssh client here; on Debian: sudo apt install openssh-client"
            ) from None
        ours.settimeout(timeout_s)
        return ours

    def explain(self) -> str:
        """What became of ssh; its own words went to the terminal."""
        where = self.destination
        try:
            code = self._processes[-1].wait(END_S)
        except subprocess.TimeoutExpired:
            return f"the agent on {where} ended before it answered"
        if code == 255:
            return f"ssh to {where} failed; try `ssh {where}` by hand"
        if code in (126, 127):
            return (
                f"`shoal` is not found on {where}; install it there, or say where it is "
                f"with {REMOTE_COMMAND}"
            )
        if code == NO_AGENT:
            return f"no agent answers on {where}; start it there with `shoal up`"
        return f"the connection to {where} ended before the agent answered"

    def close(self) -> None:
        for process in self._processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        self._processes.clear()


def parse_host(url: str) -> tuple[str, list[str], str]:
    """Split into ssh's destination, options, and the data directory. Raises CliError."""
    wrong = CliError(f"{url!r} is no address of an agent; allowed: ssh://[user@]host[:port]", USAGE)
    try:
        parts = urlsplit(url if "://" in url else f"ssh://{url}")
        port = parts.port
    except ValueError:
        raise wrong from None
    user, _, host = parts.netloc.rpartition("@")
    host = host.removesuffix(f":{port}") if port else host
    if parts.scheme != "ssh" or not _HOST.fullmatch(host) or (user and not _USER.fullmatch(user)):
        raise wrong
    host = host.strip("[]")
    options = ["-p", str(port)] if port else []
    return f"{user}@{host}" if user else host, options, unquote(parts.path.rstrip("/"))


def relay(path: str) -> int:
    """Connect standard input and output to the agent's socket until either ends."""
    from agent.client import LocalRoute

    try:
        agent = LocalRoute(path).connect(10.0)
    except Unreachable as error:
        print(f"shoal: {error}", file=sys.stderr)
        return NO_AGENT
    agent.settimeout(None)
    threading.Thread(target=_carry_in, args=(agent,), daemon=True).start()
    with agent:
        try:
            while data := agent.recv(64 * 1024):
                _write_all(data)
        except (BrokenPipeError, ConnectionError):
            pass  # whoever asked is gone
    return 0


def _carry_in(agent: socket.socket) -> None:
    try:
        while data := os.read(0, 64 * 1024):
            agent.sendall(data)
        agent.shutdown(socket.SHUT_RDWR)  # the client is gone: so is what it asked for
    except OSError:
        pass


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Start a child that Ctrl-C does not end: the person is asked first what is to become of the
    job, and stopping it needs the connection. ssh keeps an ignored SIGINT ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

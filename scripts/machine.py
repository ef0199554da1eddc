"""A machine of a test's own: Debian with systemd as its process 1, and what is typed there.

Its kinds are a container (scripts/nspawn.py) and a virtual machine (scripts/vm.py), both a copy,
removed at the end, of a tree that debootstrap makes once (kept in .cache).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = "python3,systemd,systemd-sysv,dbus,procps,bubblewrap,mosquitto"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUN_S: Final = 300.0
END_S: Final = 120.0  # where the processor is emulated


class Machine(ABC):
    """`with Container() as machine:` boots one; `process` is it, and `console` what it says."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="shoal-machine-"))
        self.console = self.place / "console"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # it ends with who made it
        try:
            self.make()
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def make(self) -> None:
        """Its disk, before its first boot."""

    @abstractmethod
    def boot(self) -> None:
        """Until systemd says that it runs."""

    @abstractmethod
    def run(
        self, script: str, user: str = "root", within_s: float = RUN_S
    ) -> subprocess.CompletedProcess[str]:
        """A line for a shell, to its end."""

    @abstractmethod
    def put(self, path: str, text: str) -> None:
        """A file of the machine, by its path there."""

    def power_off(self) -> None:
        assert self.process is not None
        self.run("systemctl poweroff")
        self.process.wait(END_S)

    def reboot(self) -> None:
        """Power off and on."""
        self.power_off()
        self.boot()

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)  # nspawn powers the machine off
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.place, ignore_errors=True)

    # ---- what is typed there ----------------------------------------------------------------

    def ask(self, script: str, user: str = "root") -> str:
        """What it prints, whatever its exit code."""
        return self.run(script, user).stdout.strip()

    def do(self, script: str, user: str = "root", within_s: float = RUN_S) -> str:
        """The same, and it has to succeed."""
        done = self.run(script, user, within_s)
        if done.returncode != 0:
            raise AssertionError(f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout.strip()

    def until(self, holds: Callable[[], object], within_s: float = 60.0) -> None:
        give_up_at = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > give_up_at:
                raise AssertionError(f"not within {within_s:.0f} s; {self.words()}")
            time.sleep(0.1)

    def words(self) -> str:
        """Its last words, for whoever has to find out why."""
        console = self.console.read_text("utf-8", "replace")[-1000:]
        return console + self.run("journalctl --no-pager -n 40").stdout


def shell(script: str, user: str) -> list[str]:
    """How a line is typed, whatever the environment of who types it is."""
    clean = ["/usr/bin/env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8"]
    if user == "root":
        return [*clean, "/bin/sh", "-c", script]
    return [*clean, "/sbin/runuser", "-l", user, "-c", script]


def debian(suite: str, packages: str = PACKAGES, name: str = "") -> Path:
    """A tree that is made once. `name` tells it from others of the suite."""
    cache = ROOT / ".cache" / f"debian-{suite}{name}"
    complete = cache / "complete"
    if complete.exists() and complete.read_text() == packages:
        return cache
    needed("debootstrap")
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(cache)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    complete.write_text(packages)
    return cache


def needed(*packages: str) -> None:
    """Of the host; the test ends where it is not root, or lacks one."""
    if os.geteuid() != 0 or not all(installed(package) for package in packages):
        sys.exit(f"needed, as root: apt-get install {' '.join(packages)}")


def installed(package: str) -> bool:
    told = subprocess.run(["dpkg", "-s", package], check=False, capture_output=True, text=True)
    return told.returncode == 0 and "install ok installed" in told.stdout

"""A machine of a test's own: Debian with systemd as its process 1, in a container.

Made by debootstrap once (kept in .cache) and booted by systemd-nspawn in a copy. Nothing of the
host is used but its kernel, and its network where the machine is to install from one; all of it is
stopped and removed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = "python3,systemd,systemd-sysv,dbus,procps,bubblewrap,mosquitto"
HOST_PACKAGES: Final = ("debootstrap", "systemd-container")
AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S: Final = 120.0
END_S: Final = 60.0


class Machine:
    """`with Machine() as machine:` boots one.

    Args:
        suite: Which Debian.
        online: With the host's network, to install from; else with none at all.
    """

    def __init__(self, suite: str = "bookworm", online: bool = False) -> None:
        self.suite = suite
        self.online = online
        self.place = Path(tempfile.mkdtemp(prefix="shoal-machine-"))
        self.root = self.place / "root"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # it ends with who made it
        try:
            base = debian(self.suite)
            subprocess.run(["cp", "-a", "--reflink=auto", base, self.root], check=True)
            (self.root / "etc/machine-id").write_text("")
            (self.root / "etc/hostname").write_text("garage\n")
            # Where nothing asks for a broker none is to run.
            (self.root / "etc/systemd/system/mosquitto.service").symlink_to("/dev/null")
            if self.online:
                self._borrow_network()
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def boot(self) -> None:
        name = f"shoal-{os.getpid()}"
        command = ["systemd-nspawn", "-D", str(self.root), "--boot", "--register=no"]
        command += ["--keep-unit", "--console=pipe", f"--machine={name}"]
        command += [] if self.online else ["--private-network"]
        with (self.place / "console").open("ab") as console:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # As Debian and Raspberry Pi OS have it, whatever the host has.
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self.until(lambda: self.ask("systemctl is-system-running") == "running", BOOT_S)
        # nspawn covers parts of /proc, and the kernel then lets nobody mount one in namespaces of
        # his own, as sandboxes do: one that is whole, as on a machine of its own, is enough for it.
        self.do("mkdir -p /run/whole-proc && mount -t proc proc /run/whole-proc")

    def _borrow_network(self) -> None:
        """What pip and apt-get of the machine need to reach what the host reaches."""
        for name in ("resolv.conf", "hosts"):
            shutil.copy(Path("/etc") / name, self.root / "etc" / name)
        if AUTHORITIES.exists():  # the host may trust some of its own
            shutil.copy(AUTHORITIES, self.root / "etc/authorities.pem")
            (self.root / "etc/pip.conf").write_text("[global]\ncert = /etc/authorities.pem\n")

    def power_off(self) -> None:
        assert self.process is not None
        self.run("systemctl poweroff")
        self.process.wait(END_S)

    def reboot(self) -> None:
        """Power off and on: nspawn's own reboot asks for a /run that is no disk on the host."""
        self.power_off()
        self.boot()

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)  # it powers the machine off
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.place, ignore_errors=True)

    def _leader(self) -> int:
        """Its process 1, which is a new one after each of its boots."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int((children.split() or ["0"])[0])

    # ---- what is typed there ----------------------------------------------------------------

    def run(
        self, script: str, user: str = "root", within_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """A line for a shell, to its end."""
        leader = self._leader()
        if not leader:  # between two boots
            return subprocess.CompletedProcess(script, 1, "", "it does not run")
        inside = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        clean = ["/usr/bin/env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8"]
        become = [] if user == "root" else ["/sbin/runuser", "-l", user, "-c"]
        shell = [*become, script] if become else ["/bin/sh", "-c", script]
        return subprocess.run(
            [*inside, *clean, *shell],
            check=False, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, script: str, user: str = "root") -> str:
        """What it prints, whatever its exit code."""
        return self.run(script, user).stdout.strip()

    def do(self, script: str, user: str = "root") -> str:
        """The same, and it has to succeed."""
        done = self.run(script, user)
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
        console = (self.place / "console").read_text("utf-8", "replace")[-1000:]
        return console + self.run("journalctl --no-pager -n 40").stdout


def debian(suite: str) -> Path:
    """A tree that is made once."""
    cache = ROOT / ".cache" / f"debian-{suite}"
    complete = cache / "complete"
    if complete.exists() and complete.read_text() == PACKAGES:
        return cache
    missing = [p for p in HOST_PACKAGES if not installed(p)]
    if missing or os.geteuid() != 0:
        sys.exit(f"needed, as root: apt-get install {' '.join(HOST_PACKAGES)}")
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(cache)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    complete.write_text(PACKAGES)
    return cache


def installed(package: str) -> bool:
    told = subprocess.run(["dpkg", "-s", package], check=False, capture_output=True, text=True)
    return told.returncode == 0 and "install ok installed" in told.stdout

"""A machine in a container: booted by systemd-nspawn.

Nothing of the host is used but its kernel, and its network where there is something to install
from it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from scripts.machine import RUN_S, Machine, debian, needed, shell

AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
BOOT_S: Final = 120.0


class Container(Machine):
    """Its files are below `root` of the host.

    Args:
        suite: Which Debian.
        online: With the host's network, to install from; else with none at all.
    """

    def __init__(self, suite: str = "bookworm", online: bool = False) -> None:
        super().__init__()
        self.suite = suite
        self.online = online
        self.root = self.place / "root"

    def make(self) -> None:
        needed("debootstrap", "systemd-container")
        base = debian(self.suite)
        subprocess.run(["cp", "-a", "--reflink=auto", base, self.root], check=True)
        (self.root / "etc/machine-id").write_text("")
        (self.root / "etc/hostname").write_text("garage\n")
        # Where nothing asks for a broker none is to run.
        (self.root / "etc/systemd/system/mosquitto.service").symlink_to("/dev/null")
        if self.online:
            self._borrow_network()

    def boot(self) -> None:
        """Also for a reboot: nspawn's own asks for a /run that is no disk on the host."""
        name = f"shoal-{os.getpid()}"
        command = ["systemd-nspawn", "-D", str(self.root), "--boot", "--register=no"]
        command += ["--keep-unit", "--console=pipe", f"--machine={name}"]
        command += [] if self.online else ["--private-network"]
        with self.console.open("ab") as console:
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

    def _leader(self) -> int:
        """Its process 1, which is a new one after each of its boots."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int((children.split() or ["0"])[0])

    def run(
        self, script: str, user: str = "root", within_s: float = RUN_S
    ) -> subprocess.CompletedProcess[str]:
        leader = self._leader()
        if not leader:  # between two boots
            return subprocess.CompletedProcess(script, 1, "", "it does not run")
        inside = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        return subprocess.run(
            [*inside, *shell(script, user)],
            check=False, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def put(self, path: str, text: str) -> None:
        (self.root / path.lstrip("/")).write_text(text)

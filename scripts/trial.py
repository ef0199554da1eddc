"""What is tried on a machine of its own that Shoal is installed on, one after the other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from scripts.machine import ROOT, Machine

INSTALL_S: Final = 900.0  # where the processor is emulated
SCRIPT: Final = "/root/unpacked/scripts/install"


class Trial:
    """One machine, and what is known of it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.figures: dict[str, str] = {}
        machine.do("useradd -m pi && useradd -m guest && mkdir -p /boot/firmware")

    def install(self, *words: str, bundle: str = "/root/shoal.tar.gz") -> str:
        """From a bundle there, with its own script, and a umask that shuts others out."""
        unpack = "rm -rf /root/unpacked && mkdir /root/unpacked && tar -xzf"
        self.machine.do(f"{unpack} {bundle} -C /root/unpacked --strip-components=1")
        script = f"umask 077; {SCRIPT} {' '.join(words)} 2>&1"
        return self.machine.do(script, within_s=INSTALL_S)

    def everything(self) -> str:
        """Files and users that an installation may touch."""
        places = "/opt /etc /usr/local /var/lib/shoal /run/shoal /run/shoal-tasks.sock /boot"
        skip = (
            "! -path '*/ld.so.cache' ! -name '*-' ! -name .pwd.lock ! -name subuid ! -name subgid"
        )
        listed = self.machine.ask(f"find {places} {skip} 2>/dev/null | LC_ALL=C sort")
        return listed + self.machine.ask("cut -d: -f1 /etc/passwd /etc/group | sort")

    def shoal(self, words: str, user: str = "pi") -> str:
        return self.machine.do(f"shoal {words}", user)

    def pid(self, unit: str) -> int:
        return int(self.machine.do(f"systemctl show -P MainPID {unit}"))

    def answers(self) -> bool:
        return self.machine.run("shoal peers", "pi").returncode == 0

    def run(self, tried: Sequence[Callable[[Self], None]]) -> bool:
        """Whether all of it held; told as it goes. What follows a failure builds on it, and is not
        tried.
        """
        for each in tried:
            name, began = each.__name__.replace("_", " "), time.monotonic()
            try:
                each(self)
            except AssertionError as error:
                print(f"FAIL {name}\n{error}\n{self.machine.words()}")
                return False
            print(f"ok   {name} ({time.monotonic() - began:.0f} s)", flush=True)
        for what, figure in self.figures.items():
            print(f"{what}: {figure}")
        return True


def made_bundle() -> Path:
    told = subprocess.run(
        [ROOT / "scripts/bundle", ROOT / ".cache/bundles"],
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(told.stdout.strip().splitlines()[-1])

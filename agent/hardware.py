"""The hardware: what the kernel knows of this board, its devices, power and heat, and of docker.

Read from /sys, /dev and /proc below `root`, so that tests bring a tree of their own. A look at all
of it takes about a millisecond and writes nothing.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Final

import psutil

# By the start of a device file's name; digits (and for spi a dot) follow it.
DEVICES: Final = ("video", "i2c-", "spidev", "ttyUSB", "ttyACM", "gpiochip")
# Where the kernel keeps a name for one of them, below /sys/class.
_NAMES: Final = ("video4linux/{}/name", "i2c-dev/{}/name", "gpio/{}/label")
_DEVICE: Final = re.compile(rf"(?:{'|'.join(DEVICES)})[0-9]+(?:\.[0-9]+)?")
_CARD: Final = re.compile(r"nvidia[0-9]+")
_RENDER: Final = re.compile(r"renderD[0-9]+")
_VENDORS: Final = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}


class Hardware:
    """Looks anew at each call: devices are plugged in and out."""

    def __init__(self, root: Path = Path("/"), docker: Path | None = None) -> None:
        """`docker`: its socket, where it is not in the usual place."""
        self._sys = root / "sys"
        self._dev = root / "dev"
        self._proc = root / "proc"
        self._docker = docker or root / "var/run/docker.sock"

    def cpus(self) -> int:
        """Those this process may run on: a container or taskset may have fewer than the board."""
        return len(os.sched_getaffinity(0))

    def memory_bytes(self) -> int:
        return int(psutil.virtual_memory().total)

    def model(self) -> str:
        """What a single-board computer is called; empty on most others."""
        return _read(self._proc / "device-tree/model").rstrip("\0")

    def devices(self) -> dict[str, str]:
        """Device files that tasks may want, by name, with what the kernel calls each or `true`."""
        found = sorted(path.name for path in _list(self._dev) if _DEVICE.fullmatch(path.name))
        return {name: self._named(name) for name in found}

    def gpu(self) -> str:
        """Who made the graphics processor that can compute, or its driver; empty where none is."""
        if (self._dev / "nvidia0").exists():
            return "nvidia"
        cards = [card for card in _list(self._sys / "class/drm") if _RENDER.fullmatch(card.name)]
        found = [maker for card in cards if (maker := self._maker(card / "device"))]
        # The vendors come before a core on the chip: where there are both, the card is meant.
        return next((maker for maker in (*_VENDORS.values(), *sorted(found)) if maker in found), "")

    def gpus(self) -> int:
        """Cards that tasks may be given one by one: NVIDIA's, by their device files."""
        return sum(1 for path in _list(self._dev) if _CARD.fullmatch(path.name))

    def docker(self) -> bool:
        """Whether somebody listens on docker's socket, and lets this process in."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a daemon that hangs is not one to count on
            try:
                probe.connect(os.fspath(self._docker))
            except OSError:
                return False
        return True

    def temperature_mc(self) -> int:
        """The hottest thermal zone in thousandths of a degree; -1 where there is none."""
        hottest = -1
        for zone in _list(self._sys / "class/thermal"):
            text = _read(zone / "temp") if zone.name.startswith("thermal_zone") else ""
            if text.lstrip("-").isdigit():
                hottest = max(hottest, int(text))
        return hottest

    def power(self) -> tuple[int, int]:
        """Battery in percent, and 1 on mains power, 0 off it; -1 each where nobody knows."""
        battery, mains, draws = -1, -1, ""
        for supply in _list(self._sys / "class/power_supply"):
            kind = _read(supply / "type")
            if _read(supply / "scope") == "Device":
                continue  # of a mouse or keyboard
            if kind == "Battery":
                capacity = _read(supply / "capacity")
                battery = min(int(capacity), 100) if capacity.isdigit() else battery
                draws = _read(supply / "status") or draws
            elif kind in ("Mains", "USB") and (online := _read(supply / "online")).isdigit():
                mains = max(mains, min(int(online), 1))
        if mains < 0 and draws:  # a battery board may tell of nothing else
            mains = {"Discharging": 0, "Charging": 1, "Full": 1, "Not charging": 1}.get(draws, -1)
        return battery, mains

    def _named(self, name: str) -> str:
        for place in _NAMES:
            if text := _read(self._sys / "class" / place.format(name)):
                return text
        return "true"

    def _maker(self, device: Path) -> str:
        """By the vendor of a card on a bus, else by the driver of a graphics core on the chip."""
        vendor = _read(device / "vendor")
        if vendor in _VENDORS:
            return _VENDORS[vendor]
        driver = device / "driver"
        return driver.resolve().name if driver.exists() else ""


def _list(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    """Of one small file; anything printable, so that a terminal may show it."""
    try:
        text = path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
    return "".join(sign for sign in text if sign.isprintable())

"""The device: what it is (labels), what it offers (capacity), how it is just now (facts)."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from agent.config import Config
from protocol.events import SelfDescribed
from protocol.messages import Facts

Addresses = tuple[str, ...]
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
MODEL: Final = Path("/proc/device-tree/model")
_ZONES: Final = Path("/sys/class/thermal")
_SUPPLIES: Final = Path("/sys/class/power_supply")


class Device:
    """This device under its owner's settings, as it is described to the protocol."""

    def __init__(
        self, config: Config, invited_labels: dict[str, str], addresses: Callable[[], Addresses]
    ) -> None:
        self._config = config
        self._invited_labels = invited_labels
        self._addresses = addresses
        status = os.statvfs(config.data_dir)
        # What is free changes all the time; the offer is of what was free at the start.
        self._disk_bytes = config.offer.disk_bytes(status.f_bavail * status.f_frsize)

    def describe(self) -> SelfDescribed:
        offer = self._config.offer
        return SelfDescribed(
            addresses=self._addresses(),
            labels={**found_labels(), **self._invited_labels, **self._config.labels},
            cpu_m=offer.cpu_m(cpus() * 1000),
            memory_bytes=offer.memory_bytes(psutil.virtual_memory().total),
            disk_bytes=self._disk_bytes,
        )

    def facts(self, running: int) -> Facts:
        """One reading, about a millisecond; -1 for what this device cannot tell."""
        count = cpus()
        load = os.getloadavg()[0] / count
        battery, mains = power()
        return Facts(
            cpu_free_m=int(max(0.0, 1 - load) * count * 1000),
            memory_free_bytes=psutil.virtual_memory().available,
            disk_free_bytes=shutil.disk_usage(self._config.data_dir).free,
            load_permille=int(load * 1000),
            running=running,
            temperature_mc=temperature_mc(),
            battery_percent=battery,
            mains=mains,
        )


def found_labels() -> dict[str, str]:
    """What the agent finds by itself; a person's own labels come on top (names as in Bacalhau's
    and Kubernetes' nodes: amd64, arm64)."""
    machine = platform.machine()
    labels = {
        "arch": ARCHITECTURES.get(machine, machine),
        "os": platform.system().lower(),
        "hostname": platform.node()[:63],
        "cpus": str(cpus()),
        "memory": str(psutil.virtual_memory().total >> 20),  # MiB, so that gt and lt can be asked
    }
    model = _read(MODEL).rstrip("\0")
    if model:
        labels["model"] = model[:63]
    return labels


def cpus() -> int:
    """Those this process may run on: a container or taskset may have fewer than the board."""
    return len(os.sched_getaffinity(0))


def temperature_mc() -> int:
    """The hottest of the kernel's thermal zones in thousandths of a degree; -1 where none is."""
    hottest = -1
    for zone in _list(_ZONES, "thermal_zone"):
        text = _read(zone / "temp")
        if text.lstrip("-").isdigit():
            hottest = max(hottest, int(text))
    return hottest


def power() -> tuple[int, int]:
    """Battery in percent, and 1 on mains power, 0 off it; -1 each where the kernel knows none."""
    battery, mains = -1, -1
    for supply in _list(_SUPPLIES, ""):
        kind = _read(supply / "type")
        if kind == "Battery" and (capacity := _read(supply / "capacity")).isdigit():
            battery = int(capacity)
        elif kind in ("Mains", "USB") and (online := _read(supply / "online")).isdigit():
            mains = max(mains, min(int(online), 1))
    return battery, mains


def _list(directory: Path, prefix: str) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.name.startswith(prefix))
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""

"""The device: what it is (labels), what it offers (capacity), how it is just now (facts)."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable

import psutil

from agent.archives import Archives
from agent.clock import utc_offset_s
from agent.conditions import Conditions
from agent.config import Config
from agent.engines.presence import Presence
from agent.engines.wasm import Wasm
from agent.hardware import Hardware
from agent.labels import BROKER, FOUND, S3_LABEL, WASM, Label, found, together
from agent.s3 import S3
from protocol.events import FactsSampled, SelfDescribed
from protocol.messages import Facts

Addresses = tuple[str, ...]
_log = logging.getLogger("shoal")


class Device:
    """This device under its owner's settings, as it is described to the protocol."""

    def __init__(
        self,
        config: Config,
        invited_labels: dict[str, str],
        addresses: Callable[[], Addresses],
        conditions: Conditions,
        hardware: Hardware,
        docker: Presence,
        archives: Archives,
        wasm: Wasm,
        s3: S3,
        programs: bool = True,
    ) -> None:
        """`programs`: whether it runs any, see `[task] sandbox`."""
        self._config = config
        self._invited_labels = invited_labels
        self._addresses = addresses
        self._conditions = conditions
        self._hardware = hardware
        self._docker = docker
        self._archives = archives
        self._wasm = wasm
        self._programs = programs
        self._s3 = s3
        # Why no more work is taken that is published to buckets; empty: nothing against it.
        self.backlog: Callable[[], str] = str
        self.disk_full: Callable[[], bool] = bool
        status = os.statvfs(config.data_dir)
        # What is free changes all the time; the offer is of what was free at the start.
        self._disk_bytes = config.offer.disk_bytes(status.f_bavail * status.f_frsize)
        given, kept = sorted({**invited_labels, **config.labels}), self.labels()
        if unused := [name for name in given if name not in kept or kept[name].source == FOUND]:
            _log.warning("labels that are too many or the agent's own: %s", ", ".join(unused))

    def labels(self) -> dict[str, Label]:
        """All of them, and where each came from; a look at the hardware."""
        there = {WASM: self._wasm.present, S3_LABEL: self._s3.present}
        there |= {f"{BROKER}{name}": True for name in self._config.mqtt.brokers}
        return together(
            found(self._hardware) | {name: "true" for name, is_here in there.items() if is_here},
            self._invited_labels,
            self._config.labels,
            self._conditions.labels,
        )

    def describe(self) -> SelfDescribed:
        offer = self._config.offer
        return SelfDescribed(
            addresses=self._addresses(),
            labels={name: label.value for name, label in self.labels().items()},
            cpu_m=offer.cpu_m(self._hardware.cpus() * 1000),
            memory_bytes=offer.memory_bytes(self._hardware.memory_bytes()),
            disk_bytes=self._disk_bytes,
            gpus=self._hardware.gpus(),
            draining=self._conditions.draining,
            engines=self._engines(),
        )

    def _engines(self) -> tuple[str, ...]:
        there = {"docker": self._docker.present, "wasm": self._wasm.present}
        programs = ("process",) if self._programs else ()
        return (*programs, *(name for name, present in there.items() if present))

    def sample(self, running: int) -> FactsSampled:
        """A reading, and what of jobs to come is here already."""
        docker = self._docker
        troubles = (("docker", docker.trouble),) if docker.trouble else ()
        return FactsSampled(
            self.facts(running),
            utc_offset_s(),
            docker.images,
            self._archives.digests(),
            troubles,
            self.backlog(),
            self.disk_full(),
        )

    def facts(self, running: int) -> Facts:
        """One reading, about a millisecond; -1 for what this device cannot tell."""
        count = self._hardware.cpus()
        load = os.getloadavg()[0] / count
        battery, mains = self._hardware.power()
        return Facts(
            cpu_free_m=int(max(0.0, 1 - load) * count * 1000),
            memory_free_bytes=psutil.virtual_memory().available,
            disk_free_bytes=shutil.disk_usage(self._config.data_dir).free,
            load_permille=int(load * 1000),
            running=running,
            temperature_mc=self._hardware.temperature_mc(),
            battery_percent=battery,
            mains=mains,
        )

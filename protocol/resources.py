"""Resources: what a task needs and what a peer has, in integers that add up exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.quantities import format_cpu, format_size, parse_count, parse_cpu_m, parse_size_bytes
from protocol.tree import Node, Plain

CPU_M_MAX: Final = 1024 * 1000  # cores of the largest machines sold; no edge device comes near
MEMORY_BYTES_MIN: Final = 1024**2  # below it `Memory: 512` was meant as megabytes
MEMORY_BYTES_MAX: Final = 1024**5
DISK_BYTES_MAX: Final = 1024**5
GPU_MAX: Final = 64

FIELDS: Final = ("CPU", "Memory", "Disk", "GPU")


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of everything that is shared out on a peer. Never negative."""

    cpu_m: int = 0  # millicores
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu: int = 0  # whole devices

    def __post_init__(self) -> None:
        assert min(self.cpu_m, self.memory_bytes, self.disk_bytes, self.gpu) >= 0, self

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_m + other.cpu_m,
            self.memory_bytes + other.memory_bytes,
            self.disk_bytes + other.disk_bytes,
            self.gpu + other.gpu,
        )

    def __sub__(self, other: Resources) -> Resources:
        """What is left when `other` is taken; taking more than there is would be our own bug."""
        return Resources(
            self.cpu_m - other.cpu_m,
            self.memory_bytes - other.memory_bytes,
            self.disk_bytes - other.disk_bytes,
            self.gpu - other.gpu,
        )

    def fits(self, free: Resources) -> bool:
        """Whether this much can be taken from `free`."""
        return (
            self.cpu_m <= free.cpu_m
            and self.memory_bytes <= free.memory_bytes
            and self.disk_bytes <= free.disk_bytes
            and self.gpu <= free.gpu
        )

    def shortfall(self, free: Resources) -> str | None:
        """Why this much does not fit in `free`, for people; None where it does."""
        lacks = []
        if self.cpu_m > free.cpu_m:
            lacks.append(f"cpu: needs {format_cpu(self.cpu_m)}, {format_cpu(free.cpu_m)} free")
        for name, needs, has in (
            ("memory", self.memory_bytes, free.memory_bytes),
            ("disk", self.disk_bytes, free.disk_bytes),
        ):
            if needs > has:
                whole = has - has % 2**20 if has > 2**20 else has  # nobody counts single bytes
                lacks.append(f"{name}: needs {format_size(needs)}, {format_size(whole)} free")
        if self.gpu > free.gpu:
            lacks.append(f"gpu: needs {self.gpu}, {free.gpu} free")
        return "; ".join(lacks) or None

    @classmethod
    def read(cls, node: Node, base: Resources) -> Resources:
        """Read a task's `Resources`; what is left out is that of `base`."""
        fields = node.fields(*FIELDS)
        return cls(
            cpu_m=fields.optional("CPU", _read_cpu, base.cpu_m),
            memory_bytes=fields.optional("Memory", _read_memory, base.memory_bytes),
            disk_bytes=fields.optional("Disk", _read_disk, base.disk_bytes),
            gpu=fields.optional("GPU", _read_gpu, base.gpu),
        )

    def to_plain(self) -> dict[str, Plain]:
        """Canonical form. Cpu keeps its unit, since Bacalhau's bare number is in whole cores."""
        return {
            "CPU": f"{self.cpu_m}m",
            "Memory": self.memory_bytes,
            "Disk": self.disk_bytes,
            "GPU": self.gpu,
        }


# Bacalhau gives 500m and 512Mb, half of a small device. A shell script or a sensor reader is
# content with these (a bare Python is 10 MiB, one that holds numpy 35 MiB), and a Raspberry Pi
# Zero with 512 MiB still takes several. Disk and GPU are asked for by those who need them.
RESOURCES_DEFAULT: Final = Resources(cpu_m=100, memory_bytes=64 * 1024**2)
# Of a container, which is held to them. What people put into images is written for more: half of
# the memory that Bacalhau gives, which a Raspberry Pi with 512 MiB still has to offer.
CONTAINER_DEFAULT: Final = Resources(cpu_m=500, memory_bytes=256 * 1024**2)


def _read_cpu(node: Node) -> int:
    return node.quantity(parse_cpu_m, 1, CPU_M_MAX, format_cpu)


def _read_memory(node: Node) -> int:
    return node.quantity(parse_size_bytes, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX, format_size)


def _read_disk(node: Node) -> int:
    return node.quantity(parse_size_bytes, 0, DISK_BYTES_MAX, format_size)


def _read_gpu(node: Node) -> int:
    return node.quantity(parse_count, 0, GPU_MAX)

"""What executions left on their devices that ought to be gone once they have ended."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.dockerhost import DockerHost
from tests.lab import Device, Lab, children_of

ENGINES = ("executions", "containers")
STORES = ("archives", "results", "downloads")


def leftovers(lab: Lab, docker: DockerHost | None = None) -> list[str]:
    """Of what runs nothing any more: processes and containers, mounts, partial files, and the
    directories of what has ended. Kept output and results are no leftovers."""
    found = [path for device in lab.devices for path in _of(device)]
    found += _mounts(lab.directory)
    if docker is not None:
        found += [str(container["Names"]) for container in docker.ours()]
        found += _mounts(docker.root / "exec")  # what of dockerd's own is mounted lies in data
        found += _mounts(docker.root / "data", ("/merged", "/shm", "/rootfs"))
    return found


def _of(device: Device) -> Iterable[str]:
    if device.process is not None:
        for pid in children_of(device.pid):
            yield f"process {pid} of {device.name}"
    for store in STORES:
        yield from map(str, (device.data_dir / store).glob("*.part"))
    for engine in ENGINES:
        for name in ("work", "tmp", ".*"):  # what is replaced is written beside it first
            yield from map(str, (device.data_dir / engine).glob(f"*/{name}"))


def _mounts(root: Path, ends: tuple[str, ...] = ("",)) -> list[str]:
    """Mount points of this machine below a directory; those that a test made itself are whole
    directories of a device."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    below = [Path(path) for path in mounts if path.startswith(f"{root}/") and path.endswith(ends)]
    own = ("default", *ENGINES, *STORES)  # docker makes the first with the first network it needs
    return [f"mounted: {path}" for path in below if path.name not in own]

"""What executions left on their devices that ought to be gone once they have ended."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.dockerhost import DockerHost
from tests.lab import Device, Lab, children_of, supervisors_of

ENGINES = ("executions", "containers")
STORES = ("archives", "results", "downloads")


def leftovers(lab: Lab, docker: DockerHost | None = None) -> list[str]:
    """Of what runs nothing any more: processes and containers, mounts, partial files, and the
    directories of what has ended. Kept output and results are no leftovers."""
    found = [path for device in lab.devices for path in _of(device)]
    found += _mounts(lab.directory)
    found += _tasks(lab.directory)
    if docker is not None:
        found += [str(container["Names"]) for container in docker.ours()]
        found += _mounts(docker.root / "exec")  # what of dockerd's own is mounted lies in data
        found += _mounts(docker.root / "data", ("/merged", "/shm", "/rootfs"))
        found += _containers(docker.root)
    return found


def _of(device: Device) -> Iterable[str]:
    if device.process is not None:
        for pid in children_of(device.pid):
            yield f"process {pid} of {device.name}"
    for pid in supervisors_of(device):  # of an agent that is gone, too
        yield f"supervisor {pid} of {device.name}"
    for store in STORES:
        yield from map(str, (device.data_dir / store).glob("*.part"))
    for engine in ENGINES:
        for name in ("work", "tmp", ".*"):  # what is replaced is written beside it first
            yield from map(str, (device.data_dir / engine).glob(f"*/{name}"))


def _tasks(root: Path) -> list[str]:
    """Processes that work in a directory of an execution, whoever looks after them."""
    found = []
    for entry in _processes():
        with suppress(OSError):
            place = os.readlink(entry / "cwd")
            if any(f"/{engine}/" in place for engine in ENGINES) and place.startswith(f"{root}/"):
                found.append(f"process {entry.name} in {place}")
    return found


def _containers(root: Path) -> list[str]:
    """Processes whose file system is a container's of this docker, and those that docker has for
    each container beside it."""
    found = []
    for entry in _processes():
        with suppress(OSError):
            words = (entry / "cmdline").read_text(errors="replace")
            if "containerd-shim" in words.partition("\0")[0] and f"{root}/" in words:
                found.append(f"shim {entry.name}")
            mounts = [line.split() for line in (entry / "mountinfo").read_text().splitlines()]
            if any(each[4] == "/" and f"/{root.name}/" in " ".join(each) for each in mounts):
                found.append(f"process {entry.name} of a container")
    return found


def _processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _mounts(root: Path, ends: tuple[str, ...] = ("",)) -> list[str]:
    """Mount points of this machine below a directory; those that a test made itself are whole
    directories of a device."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    below = [Path(path) for path in mounts if path.startswith(f"{root}/") and path.endswith(ends)]
    own = ("default", *ENGINES, *STORES)  # docker makes the first with the first network it needs
    return [f"mounted: {path}" for path in below if path.name not in own]

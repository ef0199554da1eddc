"""Device checks: what may be wrong with a device whether an agent runs on it or not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from agent.clock import Clock, synchronised
from agent.config import Docker
from agent.control.backend import View
from agent.wear import read_wear

LOW_BYTES: Final = 100 * 1024**2  # a database, logs and a result still fit
DOCKER_PROGRAMS: Final = ("usr/sbin/dockerd", "usr/bin/dockerd", "usr/local/bin/dockerd")


def check(name: str, ok: bool | None, text: str, fix: str = "") -> View:
    """An entry of the doctor's; `ok`: None is worth a look, False is wrong."""
    return {"check": name, "ok": ok, "text": text, "fix": "" if ok else fix}


def device_checks(data_dir: Path, clock: Clock, docker: Docker, root: Path) -> list[View]:
    """Of a device that belongs to no shoal yet. `root`: where its own files are looked for."""
    return [
        clock_check(clock),
        disk_check(data_dir),
        *storage_checks(data_dir, root),
        *memory_checks(root),
        *docker_checks(docker, root, answers=None, known=False),
    ]


def clock_check(clock: Clock) -> View:
    if clock.now().wall_trusted:
        by = "a time server" if synchronised() else "its own hardware clock"
        by = "whatever its owner trusts (trust_clock)" if clock.told_right else by
        return check("clock", True, f"the time is kept by {by}")
    return check(
        "clock",
        None,
        "the time cannot be trusted: nothing expires and no schedule fires until it can",
        "connect to a network with a time server (timedatectl status), or set a hardware clock "
        "with a battery (sudo timedatectl set-ntp false && sudo timedatectl set-time "
        "'YYYY-MM-DD HH:MM'); trust_clock = true in config.toml where the time is kept right "
        "in another way",
    )


def disk_check(data_dir: Path, full: bool = False) -> View:
    """`full`: the agent has found that nothing goes there any more."""
    free = shutil.disk_usage(data_dir).free
    text = f"{free >> 20} MiB free for {data_dir}"
    if full:
        text = f"the disk is full: new jobs are refused, and messages left to brokers ({text})"
    ok = free > LOW_BYTES and not full
    return check("disk", ok, text, "free some space; finished outputs go first by themselves")


def storage_checks(data_dir: Path, root: Path) -> list[View]:
    """Nothing to say where it tells nothing, as most SD cards."""
    wear = read_wear(data_dir, root)
    told = []
    if wear.used_percent is not None:
        told.append(f"up to {wear.used_percent} % of its life is used")
    if wear.written_gib is not None:
        told.append(f"{wear.written_gib} GiB were written to it so far")
    if wear.errors:
        told.append(f"its file system met {wear.errors} errors")
    if not told and not wear.spare:
        return []
    ok = False if wear.worn_out else None if wear.wearing or wear.errors else True
    fix = (
        "copy what matters and replace it: `shoal peer drain` first; on the new one either "
        "`shoal join --new-identity TOKEN`, or the old files and `shoal up --adopt-board` once"
    )
    return [check("storage", ok, f"{wear.device}: {', '.join(told) or 'spare blocks left'}", fix)]


def memory_checks(root: Path) -> list[View]:
    """The firmware of a Raspberry Pi has the kernel count none, unless it is told to."""
    try:
        line = (root / "proc/cmdline").read_text("utf-8", "replace").split()
        counted = (root / "proc/cgroups").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    rows = [row.split() for row in counted]
    off = any(len(row) == 4 and row[0] == "memory" and row[3] == "0" for row in rows)
    if not off:
        return []
    last = next((w for w in reversed(line) if "cgroup" in w and "memory" in w), "")
    why = f" ({last} on its command line)" if last == "cgroup_disable=memory" else ""
    places = (root / "boot/firmware/cmdline.txt", root / "boot/cmdline.txt")
    place = next((path for path in places if path.exists()), places[0])
    fix = (
        f"add cgroup_enable=memory cgroup_memory=1 to the one line of {place} and reboot: then "
        "programs and containers are held to their Resources.Memory"
    )
    return [check("memory", None, f"the kernel counts no memory of groups{why}", fix)]


def docker_checks(docker: Docker, root: Path, *, answers: bool | None, known: bool) -> list[View]:
    """Nothing to say where it was never installed. `answers`: None where nobody has asked it;
    `known`: it did answer once."""
    path = docker.path()
    if answers:
        return [check("docker", True, f"docker answers at {path}")]
    silent = check(
        "docker", None, f"docker does not answer at {path}", "sudo systemctl status docker"
    )
    try:
        if not path.is_socket():
            if docker.named and not known:
                fix = "see [docker] socket (or DOCKER_HOST), and whether that service runs"
                return [check("docker", None, f"no docker is at {path}, which is configured", fix)]
            installed = any((root / program).exists() for program in DOCKER_PROGRAMS)
            return [silent] if known or installed else []
        allowed = os.access(path, os.R_OK | os.W_OK)
    except OSError:
        return []
    if allowed:
        return [silent if answers is False else check("docker", True, f"docker is at {path}")]
    fix = (
        "`scripts/install --docker` (or: sudo usermod -aG docker shoal; sudo systemctl "
        "restart shoal); whoever may use docker is root on this device"
    )
    return [check("docker", None, f"docker is here, and {path} is closed to the agent", fix)]

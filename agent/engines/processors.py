"""Processors: for which kinds of them an image may be, to run on this device."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from agent.labels import ARCHITECTURES

OLDER: Final = (("arm64", "arm"), ("amd64", "386"))  # and what they run besides; most of them do
# What a kernel was told to run by an emulator, as qemu's packages and docker's own binfmt name it.
HANDLERS: Final = Path("/proc/sys/fs/binfmt_misc")
EMULATED: Final = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i386",
    "mips64le": "mips64el",
    "mipsle": "mipsel",
    "loong64": "loongarch64",
}


def own_kind() -> str:
    """As images call it."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def runs_here(kind: str, handlers: Path = HANDLERS) -> bool:
    """Whether programs for `kind` do; of an image that does not say, nothing speaks against it."""
    own = own_kind()
    return kind in ("", own) or (own, kind) in OLDER or _emulated(kind, handlers)


def _emulated(kind: str, handlers: Path) -> bool:
    try:
        text = (handlers / f"qemu-{EMULATED.get(kind, kind)}").read_text()
    except (OSError, ValueError):  # no such handler, or no name of one
        return False
    return text.startswith("enabled")

"""The board: what tells this hardware from another, so that a copied card does not pass for it.

An identity is bound to the board it was made on. /etc/machine-id is no help: it is copied with the
card. Several sources are kept, each hashed, since which ones can be read changes with the rights
of the process (the DMI uuid is for root only) and with what is plugged in.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OVERRIDE = "SHOAL_BOARD_ID"  # for containers, whose hardware is their host's

_HEADER = "shoal board 1"
_KINDS = ("override", "devicetree", "dmi", "mac")  # the strongest first
_DIGEST = re.compile(r"[0-9a-f]{32}\Z")
# What makers leave in place of a serial number: two boards with one of these are not one board.
_PLACEHOLDERS = {
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "fefefefe-fefe-fefe-fefe-fefefefefefe",
}


@dataclass(frozen=True, slots=True)
class Board:
    """Hashed marks of one board by kind; none where nothing could be read."""

    marks: tuple[tuple[str, str], ...] = ()  # (kind, digest), sorted

    def of(self, kind: str) -> frozenset[str]:
        return frozenset(digest for name, digest in self.marks if name == kind)

    def differs(self, current: Board) -> bool:
        """Whether `current` is surely another board than this, on which an identity was made.

        The strongest kind that both know decides; where they have none in common nothing is known.
        """
        if current.of("override") and self.marks and not self.of("override"):
            return True  # told on purpose, so it counts against whatever was read
        for kind in _KINDS:
            ours, theirs = self.of(kind), current.of(kind)
            if ours and theirs:
                return not ours & theirs  # one network card of several may have been swapped
        return False

    def to_text(self) -> str:
        return "\n".join([_HEADER, *(f"{kind} {digest}" for kind, digest in self.marks), ""])

    @classmethod
    def from_text(cls, text: str) -> Board:
        """Read `to_text`'s form. Raises ValueError."""
        lines = text.splitlines()
        if not lines or lines[0] != _HEADER:
            raise ValueError("not a board file")
        marks: list[tuple[str, str]] = []
        for line in lines[1:]:
            kind, _, digest = line.partition(" ")
            if kind not in _KINDS or not _DIGEST.match(digest):
                raise ValueError("not a board file")
            marks.append((kind, digest))
        return cls(tuple(marks))


def read_board(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Board:
    """Read the marks of the board under `root`; SHOAL_BOARD_ID in `environ` replaces them all."""
    override = environ.get(OVERRIDE, "").strip()
    if override:
        return Board((_mark("override", override),))
    found: list[tuple[str, str]] = []
    for kind, path in (
        ("devicetree", "proc/device-tree/serial-number"),
        ("dmi", "sys/class/dmi/id/product_uuid"),
    ):
        text = _line(root / path)
        if _tells(text):
            found.append(_mark(kind, text))
    found += [_mark("mac", address) for address in _addresses(root / "sys/class/net")]
    return Board(tuple(sorted(set(found))))


def _addresses(network: Path) -> list[str]:
    """Burnt-in MAC addresses: of devices on a bus, and not random, set or inherited."""
    try:
        cards = sorted(network.iterdir())
    except OSError:
        return []
    return [
        address
        for card in cards
        if (card / "device").exists()
        and _line(card / "addr_assign_type") == "0"  # NET_ADDR_PERM in linux/netdevice.h
        and _tells(address := _line(card / "address"))
    ]


def _line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(256)
    except OSError:
        return ""
    return raw.decode("ascii", "replace").strip("\0 \t\r\n").lower()


def _tells(text: str) -> bool:
    """Whether `text` can be a serial number: not empty, one digit repeated, or a maker's filler."""
    signs = set(re.sub(r"[^0-9a-z]", "", text))
    return len(signs) > 1 and text not in _PLACEHOLDERS


def _mark(kind: str, text: str) -> tuple[str, str]:
    return kind, hashlib.sha256(f"shoal/board/1\0{kind}\0{text}".encode()).hexdigest()[:32]

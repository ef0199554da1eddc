"""Graphics cards of this device: which execution has which, until it ends.

Docker and programs are told them by number, as NVIDIA's own tools count them: in the order of the
bus. Asked for a count, docker gives everybody the first ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from protocol.resources import GPU_MAX

NOTE: Final = "gpus"  # beside an execution, for another life of the agent


class Cards:
    """What is given and not yet free again. Used by the trio thread alone."""

    def __init__(self, count: Callable[[], int]) -> None:
        """`count`: how many cards there are just now."""
        self._count = count
        self._given: dict[str, tuple[int, ...]] = {}

    def choose(self, execution: str, wanted: int) -> tuple[int, ...]:
        """So many for it, the lowest first. Raises OSError where fewer are free."""
        others = (cards for name, cards in self._given.items() if name != execution)
        taken = {card for cards in others for card in cards}
        there = self._count()
        free = [card for card in range(there) if card not in taken]
        if wanted > len(free):
            raise OSError(f"gpu: needs {wanted}, {len(free)} of {there} free on this device")
        self._given[execution] = tuple(free[:wanted])
        return self._given[execution]

    def of(self, execution: str) -> tuple[int, ...]:
        """Those that it has; none where it asked for none."""
        return self._given.get(execution, ())

    def hold(self, execution: str, cards: Sequence[int]) -> None:
        """An earlier life of the agent gave it these."""
        if cards:
            self._given[execution] = tuple(cards)

    def free(self, execution: str) -> None:
        """It has ended; one that has none, or has given them back, is fine."""
        self._given.pop(execution, None)


def variables(cards: Sequence[int]) -> dict[str, str]:
    """What a process is told: nothing else keeps it to its own. CUDA counts by speed, unless it is
    told to count as everybody else does."""
    text = numbered(cards)
    return {
        "NVIDIA_VISIBLE_DEVICES": text,
        "CUDA_VISIBLE_DEVICES": text,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def numbered(cards: Sequence[int]) -> str:
    return ",".join(map(str, cards))


def note_of(cards: Sequence[int]) -> bytes:
    return msgspec.json.encode(list(cards))


def read_note(data: bytes | None) -> tuple[int, ...]:
    """None where nothing, or nothing that can be read, was kept."""
    try:
        cards = msgspec.json.decode(data or b"[]", type=tuple[int, ...])
    except msgspec.MsgspecError:
        return ()
    return cards if len(cards) <= GPU_MAX and all(card >= 0 for card in cards) else ()

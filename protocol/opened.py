"""Opened records: what was verified lately, by its bytes, so that it is verified once.

A job's records pass one peer several times: in an award, in a copy from another holder, with a
result, in every view. Whether a signature is good depends on the bytes and the shoal alone, so the
answer may be kept; what may be done about the record is asked anew each time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from protocol.wire import Sealed

BYTES_MAX: Final = 1 << 20  # of the records' bytes together; as Python values a few times that
RECORD_BYTES_MAX: Final = (
    8192  # an award or result takes 1 KB; one large spec shall not push out all
)


class Opened:
    """The latest of them, least lately used first."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._sealed: OrderedDict[bytes, Sealed] = OrderedDict()

    def get(self, data: bytes) -> Sealed | None:
        sealed = self._sealed.get(data)
        if sealed is not None:
            self._sealed.move_to_end(data)
        return sealed

    def put(self, sealed: Sealed) -> None:
        """Keep a record that was found good; one that is too large is left to be verified again."""
        data = sealed.data
        if len(data) > RECORD_BYTES_MAX or data in self._sealed:
            return
        self._sealed[data] = sealed
        self._bytes += len(data)
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._sealed.popitem(last=False)[0])

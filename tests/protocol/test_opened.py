"""opened: what was verified is verified once, and never counts for more than it was."""

from __future__ import annotations

from protocol.ids import PeerId
from protocol.opened import RECORD_BYTES_MAX, Opened
from protocol.records import Departure
from protocol.wire import Sealed


def sealed(number: int, size: int = 100) -> Sealed:
    data = number.to_bytes(4, "big") * (size // 4)
    return Sealed(Departure(peer=PeerId("a"), incarnation=number), PeerId("a"), None, b"", data)


def test_what_was_put_is_found_by_its_bytes() -> None:
    opened, record = Opened(), sealed(1)
    opened.put(record)
    assert opened.get(bytes(record.data)) is record
    assert opened.get(record.data + b"\0") is None


def test_the_first_to_be_put_stays() -> None:
    opened, record = Opened(), sealed(1)
    opened.put(record)
    opened.put(sealed(1))
    assert opened.get(record.data) is record


def test_the_least_lately_used_goes_first() -> None:
    opened = Opened(bytes_max=300)
    records = [sealed(number) for number in range(3)]
    for record in records:
        opened.put(record)
    assert opened.get(records[0].data) is records[0]
    opened.put(sealed(3))
    assert opened.get(records[1].data) is None
    assert [opened.get(each.data) is each for each in (records[0], records[2])] == [True, True]


def test_a_large_record_pushes_nothing_out() -> None:
    opened, small = Opened(bytes_max=RECORD_BYTES_MAX), sealed(1)
    opened.put(small)
    large = sealed(2, RECORD_BYTES_MAX + 4)
    opened.put(large)
    assert opened.get(large.data) is None
    assert opened.get(small.data) is small

"""The ledger notices whatever goes back, and whatever is claimed and not on disk."""

from protocol.effects import Save
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId, Revision, job_id
from protocol.records import Acceptance, Advert, Assignment, Fence, Record, Spec, Unknown
from protocol.sim.disk import Disk
from protocol.sim.keyring import Root
from protocol.sim.ledger import Ledger
from protocol.wire import dumps, open_sealed, seal

ME = Root("lab").member(1)
JOB = job_id(ME.shoal, "default", "one-off", "key")
REVISION = Revision("r" * 32)


def _open(data: bytes) -> Record | Unknown | None:
    try:
        return open_sealed(data, ME).record
    except RemoteProtocolError:
        return None


def _award(attempt: int, term: int = 1) -> bytes:
    record = Assignment(
        job=JOB,
        revision=REVISION,
        slot=0,
        fence=Fence(term, ME.peer, attempt),
        executor=ME.peer,
        lease_ms=15_000,
    )
    return seal(record, ME)


def _choice(attempt: int, verdict: int) -> bytes:
    fence = Fence(1, ME.peer, attempt)
    record = Acceptance(
        job=JOB, revision=REVISION, slot=0, fence=fence, verdict=verdict, result=b""
    )
    return seal(record, ME)


def _slot(award: bytes, choice: bytes = b"") -> Save:
    return Save((("slot", f"{JOB}/0", dumps([award, choice])),))


def _found(*saves: Save) -> str:
    ledger = Ledger(_open)
    return "\n".join(text for save in saves for text in ledger.saved(save))


def test_what_rises_is_well() -> None:
    saves = (
        _slot(_award(1)),
        _slot(_award(2)),
        _slot(_award(2), _choice(2, 1)),
        _slot(_award(3), _choice(3, 0)),
        _slot(_award(3), _choice(2, 0)),
        Save((("fence", f"{JOB}/0", dumps([1, ME.peer, 1])),)),
        Save((("fence", f"{JOB}/0", dumps([2, ME.peer, 1])),)),
        Save((("job", JOB, dumps([1, "a"])), ("meta", "x", None))),
        Save((("job", JOB, dumps([1, "b"])),)),
    )
    assert _found(*saves) == ""


def test_what_goes_back_is_not() -> None:
    assert "award" in _found(_slot(_award(2)), _slot(_award(1)))
    assert "award" in _found(_slot(_award(2)), _slot(b""))
    assert "against the merge" in _found(
        _slot(_award(2), _choice(1, 0)), _slot(_award(2), _choice(2, 0))
    )
    assert "against the merge" in _found(
        _slot(_award(2), _choice(2, 0)), _slot(_award(2), _choice(1, 1))
    )
    assert "no accepted result" in _found(_slot(_award(2), _choice(1, 0)), _slot(_award(2)))
    assert "no accepted result" in _found(_slot(_award(2), b"unreadable"))
    assert "forgotten" in _found(Save((("slot", f"{JOB}/0", None),)))
    assert "fence" in _found(
        Save((("fence", f"{JOB}/0", dumps([2, "a", 1])),)),
        Save((("fence", f"{JOB}/0", dumps([1, "b", 9])),)),
    )
    assert "term" in _found(
        Save((("job", JOB, dumps([2, "a"])),)), Save((("job", JOB, dumps([1, "b"])),))
    )


def _spec(generation: int) -> Save:
    record = Spec(
        job=JOB,
        shoal=ME.shoal,
        namespace="default",
        kind="one-off",
        key="key",
        generation=generation,
        body=b"\xa0",
    )
    return Save((("spec", JOB, seal(record, ME)),))


def test_a_generation_never_goes_back() -> None:
    assert _found(_spec(1), _spec(2), _spec(2)) == ""
    assert "generation" in _found(_spec(2), _spec(1))
    assert "is none" in _found(Save((("spec", JOB, b"junk"),)))


def test_a_new_life_counts_from_its_disk() -> None:
    ledger, disk = Ledger(_open), Disk()
    assert list(ledger.saved(_slot(_award(2), _choice(2, 0)))) == []
    ledger.booted(disk)  # nothing of it was durable
    assert list(ledger.saved(_slot(_award(1)))) == []
    disk.submit(_slot(_award(5)))
    disk.begin()
    disk.commit()
    ledger.booted(disk)
    assert list(ledger.saved(_slot(_award(4)))) != []


def _advert(incarnation: int) -> Advert:
    return Advert(
        peer=ME.peer,
        incarnation=incarnation,
        addresses=(),
        labels={},
        engines=(),
        cpu_m=0,
        memory_bytes=0,
        disk_bytes=0,
        gpus=0,
        version="",
        name="",
    )


def test_an_incarnation_rises_with_each_life() -> None:
    ledger = Ledger(_open)
    assert list(ledger.advertised(_advert(3))) == []
    assert list(ledger.advertised(_advert(3))) == []
    assert "goes back" in next(ledger.advertised(_advert(2)))
    ledger.booted(Disk())
    assert "earlier life" in next(ledger.advertised(_advert(3)))
    assert list(ledger.advertised(_advert(4))) == []


def test_an_award_is_known_once_it_was_journaled() -> None:
    ledger, fence = Ledger(_open), Fence(1, ME.peer, 1)
    row = dumps([_award(1), b"spec", "starting"])
    ledger.committed(Save((("execution", "e", row), ("execution", "f", None))))
    assert ledger.has_award(JOB, 0, fence)
    assert not ledger.has_award(JOB, 1, fence)
    assert not ledger.has_award(JobId("other"), 0, fence)

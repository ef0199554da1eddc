"""The simulated disk: what is durable when, and what a crash takes."""

from random import Random

from protocol.effects import Save
from protocol.sim.disk import Disk


def _save(key: str, value: bytes | None) -> Save:
    return Save((("meta", key, value),))


def test_nothing_is_durable_before_its_commit() -> None:
    disk = Disk()
    assert disk.submit(_save("a", b"1")) == 1
    assert disk.begin()
    assert disk.durable == 0
    assert disk.rows["meta"] == {}
    assert disk.commit() == [_save("a", b"1")]
    assert disk.durable == 1
    assert disk.rows["meta"] == {"a": b"1"}


def test_what_queued_during_a_commit_shares_the_next() -> None:
    disk = Disk()
    disk.submit(_save("a", b"1"))
    assert disk.begin()
    disk.submit(_save("b", b"1"))
    disk.submit(_save("a", None))
    assert not disk.begin()
    disk.commit()
    assert disk.begin()
    assert len(disk.commit()) == 2
    assert disk.durable == disk.submitted == 3
    assert disk.rows["meta"] == {"b": b"1"}
    assert disk.commits == 2


def test_a_crash_takes_what_waits_and_perhaps_what_is_being_written() -> None:
    outcomes = set()
    for seed in range(20):
        disk = Disk()
        disk.submit(_save("a", b"1"))
        disk.begin()
        disk.submit(_save("b", b"1"))
        late = disk.crash(Random(seed))
        assert "b" not in disk.rows["meta"]
        assert bool(late) == ("a" in disk.rows["meta"])
        assert disk.submitted == disk.durable == 0
        outcomes.add(bool(late))
    assert outcomes == {True, False}


def test_an_image_is_a_copy() -> None:
    disk = Disk()
    disk.submit(_save("a", b"1"))
    disk.begin()
    disk.commit()
    image = disk.image()
    image["meta"]["a"] = b"2"
    assert disk.rows["meta"] == {"a": b"1"}

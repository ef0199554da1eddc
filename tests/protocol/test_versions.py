"""versions: the latest specs of a standing job stay on disk until it is deleted, within a bound."""

from __future__ import annotations

import pytest

import protocol.versions as versions_module
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId
from protocol.records import Desired
from protocol.tree import Plain
from protocol.versions import KEPT, Versions
from protocol.wire import dumps
from tests.protocol.daemonnet import DaemonNet
from tests.protocol.standingbook import StandingBook, daemon

BOOK = StandingBook()


def kept(*generations: int) -> Versions:
    made = Versions(BOOK.keyring("a"))
    for generation in generations:
        made.keep(BOOK.id, BOOK.spec(generation=generation), generation * 1000)
    return made


def test_the_latest_are_kept() -> None:
    made = kept(*range(1, KEPT + 3))
    assert [each.generation for each in made.of(BOOK.id)] == list(range(3, KEPT + 3))
    assert made.of(BOOK.id)[0].since_ms == 3000
    assert made.of(JobId("other")) == []


def test_they_are_there_after_a_restart() -> None:
    made = kept(1, 2)
    ((bucket, key, value),) = made.keep(BOOK.id, BOOK.spec(generation=3), 3000)
    assert (bucket, key) == ("version", BOOK.id) and value is not None
    again = Versions(BOOK.keyring("b"))
    assert again.restore({BOOK.id: value}) == []
    assert again.of(BOOK.id) == made.of(BOOK.id)


def test_a_row_that_cannot_be_read_costs_itself_alone() -> None:
    made = Versions(BOOK.keyring("a"))
    control = dumps([[BOOK.control(), 1]])
    rows = {"x": b"\xff", "y": dumps([["text", 1]]), "z": control}
    assert [each.key for each in made.restore(rows)] == ["x", "y", "z"]
    assert [made.of(JobId(key)) for key in "xyz"] == [[], [], []]


def test_a_version_that_cannot_be_read_costs_no_other_and_stays_on_disk() -> None:
    strange = [[BOOK.control(), 1], [b"of another shoal", 2]]
    rows = {BOOK.id: dumps([[BOOK.spec(), 0], *strange])}
    made = Versions(BOOK.keyring("a"))
    assert [each.bucket for each in made.restore(rows)] == ["version"]
    assert [each.since_ms for each in made.of(BOOK.id)] == [0]
    ((_, _, value),) = made.keep(BOOK.id, BOOK.spec(generation=2), 3)
    assert value == dumps([[BOOK.spec(), 0], *strange, [BOOK.spec(generation=2), 3]])
    assert [each.since_ms for each in made.of(BOOK.id)] == [0, 3]


def test_what_a_later_version_says_more_of_each_is_left_unread() -> None:
    made = Versions(BOOK.keyring("a"))
    assert made.restore({BOOK.id: dumps([[BOOK.spec(), 1, "more"]])}) == []
    assert [each.since_ms for each in made.of(BOOK.id)] == [1]


@pytest.mark.parametrize("body", [{"Type": "later"}, {"Type": "daemon", "Name": "x"}, []])
def test_a_spec_that_is_refused_by_now_is_listed_without_what_it_says(body: Plain) -> None:
    rows = {BOOK.id: dumps([[BOOK.spec(), 1], [BOOK.spec_of(dumps(body), generation=2), 2]])}
    made = Versions(BOOK.keyring("a"))
    assert made.restore(rows) == []
    assert [each.spec is None for each in made.of(BOOK.id)] == [False, True]


def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made, data = Versions(BOOK.keyring("a")), BOOK.spec()
    monkeypatch.setattr(versions_module, "BYTES_MAX", 3 * len(data))
    for name in "xyz":
        made.keep(JobId(name), data, 1)
    assert made.keep(JobId("more"), data, 1) == [("version", "more", None)]
    assert made.keep(JobId("x"), data, 2) != []
    assert [each.since_ms for each in made.of(JobId("x"))] == [2]
    made.forget(JobId("y"))
    made.keep(JobId("more"), data, 1)
    assert len(made.of(JobId("more"))) == 1


def test_what_is_deleted_is_forgotten() -> None:
    made = kept(1)
    assert made.forget(BOOK.id) == [("version", BOOK.id, None)]
    assert made.forget(BOOK.id) == []


def test_a_spec_of_a_later_version_is_kept_and_not_read() -> None:
    made = Versions(BOOK.keyring("a"))
    made.keep(BOOK.id, BOOK.spec_of(dumps({"Type": "later"})), 1)
    (version,) = made.of(BOOK.id)
    assert version.spec is None and version.generation == 1
    made.keep(BOOK.id, BOOK.control(), 1)  # our own bug, that would be
    with pytest.raises(RemoteProtocolError):
        made.of(BOOK.id)


def test_every_peer_remembers_what_an_update_took_the_place_of() -> None:
    net = DaemonNet("a", "b")
    net.ran("a", daemon(Priority=1))
    net.run(1.0)
    net.ran("a", daemon(Priority=2))
    net.ran("a", daemon(Priority=2))  # nothing changed
    net.run(1.0)
    for name in "ab":
        found = net[name].steward.versions(net.id)
        assert [view["generation"] for view in found] == [2, 1]
        specs = [view["spec"] for view in found]
        assert [spec["Priority"] for spec in specs if isinstance(spec, dict)] == [2, 1]
        assert [view["author_name"] for view in found] == ["a", "a"]
    net.kill("b")
    net.boot("b")
    assert [view["generation"] for view in net["b"].steward.versions(net.id)] == [2, 1]
    net.controlled("a", Desired.DELETED)
    net.run(1.0)
    for name in "ab":
        assert net[name].steward.versions(net.id) == []
        assert not net.boxes[name].disk.get("version")

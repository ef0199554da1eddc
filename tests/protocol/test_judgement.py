"""Judgement: whom to believe about whom, and what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.advertising import INCARNATION_MAX, JUMP_MAX
from protocol.effects import Save, Send, Tell
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import Accused, Ack, Rumours, SyncRecords
from protocol.records import Accusation
from protocol.roster import State
from protocol.rumours import RECORD_BYTES_MAX
from protocol.wire import dumps
from tests.protocol.onepeer import (
    DESCRIBED,
    ME,
    OnePeer,
    dialled,
    gossiped,
    hung_up,
    rows,
    sent,
    told,
)

UNHEARD, ALIVE, SUSPECT = State.UNHEARD, State.ALIVE, State.SUSPECT
DEAD, LEFT, RESTARTING = State.DEAD, State.LEFT, State.RESTARTING
REFUSED = Accusation.REFUSED
EVERYBODY = ("a", "b", "c", "d")


@pytest.fixture
def me() -> OnePeer:
    """Alive, and knowing nobody."""
    one = OnePeer()
    one.start()
    return one


@pytest.fixture
def shoal(me: OnePeer) -> OnePeer:
    """Connected to a and b; c and d are known by gossip."""
    me.connect("a", "b")
    me.gossip(me.advert("c"), me.advert("d"))
    me.drain()
    return me


def bury(one: OnePeer, name: str) -> None:
    """Let everybody be told that `name` does not listen any more."""
    one.gossip(one.suspicion("a", name, one.peer(name).incarnation, REFUSED))
    assert one.state(name) is DEAD
    one.drain()


# ---- adverts -------------------------------------------------------------------------------------


def test_a_stranger_s_advert_makes_it_a_peer(me: OnePeer) -> None:
    data = me.advert("a", 3)
    effects = me.gossip(data)
    assert me.drain() == [("a", UNHEARD, ALIVE)]
    assert me.peer("a").incarnation == 3
    assert rows(effects) == [("peer", "a", data)]
    assert dialled(effects) == ["a"] and told(effects) == ["peer.joined"]
    assert me.gossip(data) == [], "again: nothing"
    assert me.drain() == []


def test_a_newer_advert_replaces_an_older_and_never_the_other_way(me: OnePeer) -> None:
    newer, older = me.advert("a", 4), me.advert("a", 3)
    me.gossip(me.advert("a", 1))
    assert rows(me.gossip(newer)) == [("peer", "a", newer)]
    assert me.gossip(older) == []
    assert me.peer("a").data == newer
    assert me.drain() == [("a", UNHEARD, ALIVE)]


def test_two_adverts_of_one_incarnation_end_the_same_everywhere(me: OnePeer) -> None:
    low, high = sorted([me.advert("a", 1, cpu_m=1), me.advert("a", 1, cpu_m=2)])
    me.gossip(low)
    me.gossip(high)
    assert me.peer("a").data == high
    other = OnePeer()
    other.start()
    other.gossip(high)
    other.gossip(low)
    assert other.peer("a").data == high


def test_what_one_peer_tells_is_passed_on_by_gossip_once(shoal: OnePeer) -> None:
    data = shoal.advert("e")
    assert gossiped(shoal.hears("a", data)) == []
    assert gossiped(shoal.until(shoal.now + 2, (*EVERYBODY, "e"))) == [
        shoal.advert("a"),
        shoal.advert("b"),
        data,
    ]
    shoal.hears("b", data)
    assert gossiped(shoal.until(shoal.now + 2, (*EVERYBODY, "e"))) == []


def test_what_was_gossiped_meanwhile_is_not_passed_on(shoal: OnePeer) -> None:
    shoal.until(shoal.now + 2, EVERYBODY)
    for data in (shoal.advert("e"), shoal.suspicion("a", "c")):
        shoal.hears("a", data)
        shoal.gossip(data)
    assert gossiped(shoal.until(shoal.now + 2, EVERYBODY)) == []


def test_what_was_compared_is_not_passed_on(shoal: OnePeer) -> None:
    shoal.until(shoal.now + 2, EVERYBODY)
    shoal.receive("a", SyncRecords(0, (shoal.advert("e"),)))
    assert shoal.state("e") is ALIVE
    assert gossiped(shoal.until(shoal.now + 2, (*EVERYBODY, "e"))) == []


def test_a_kind_of_a_newer_version_travels_on(shoal: OnePeer) -> None:
    shoal.until(shoal.now + 2, EVERYBODY)
    keyring = shoal.shoal.keyring("a")
    body = dumps([77, "what", "is", "this"])
    data = dumps([body, "a", keyring.sign(b"shoal/record/1\0" + body), keyring.certificate])
    shoal.hears("a", data, data)
    assert gossiped(shoal.until(shoal.now + 2, EVERYBODY)) == [data]


def test_a_full_table_makes_room_for_whoever_is_there() -> None:
    me = OnePeer(replace(OnePeer().config, peers_max=2))
    me.start()
    me.gossip(me.advert("a"), me.advert("b"))
    assert me.gossip(me.advert("c")) == [], "nobody is absent"
    assert me.membership.peer(PeerId("c")) is None
    assert me.connect("c", tell=False) == []
    bury(me, "b")
    effects = me.gossip(me.advert("c"))
    assert rows(effects) == [("peer", "b", None), ("peer", "c", me.advert("c"))]
    assert me.membership.alive() == ["a", "c"]


# ---- the dead ------------------------------------------------------------------------------------


def test_an_equal_incarnation_never_resurrects(shoal: OnePeer) -> None:
    data = shoal.advert("c")
    evidence = shoal.suspicion("a", "c", why=REFUSED)
    shoal.gossip(evidence)
    assert shoal.gossip(data) == []
    assert shoal.state("c") is DEAD
    answer = Send(PeerId("b"), Rumours((evidence,)))
    assert shoal.hears("b", data) == [answer], "who thinks so is shown why not"
    assert shoal.receive("b", SyncRecords(0, (data,))) == [answer]
    other = shoal.advert("c", 1, cpu_m=7)
    assert answer in shoal.hears("b", max(other, data)) or data > other
    assert shoal.state("c") is DEAD


def test_a_higher_incarnation_does(shoal: OnePeer) -> None:
    bury(shoal, "c")
    effects = shoal.gossip(shoal.advert("c", 2))
    assert shoal.drain() == [("c", DEAD, ALIVE)]
    assert told(effects) == ["peer.alive"] and dialled(effects) == ["c"]


def test_the_dead_that_speaks_is_told_that_it_is_dead(shoal: OnePeer) -> None:
    bury(shoal, "c")
    effects = shoal.connect("c", tell=False)
    assert sent(effects, "c")[0] == Accused(1)
    assert shoal.state("c") is DEAD
    assert Accused(1) not in sent(shoal.hears("c", shoal.advert("c"))), "once is enough for now"
    shoal.now += 1.0
    assert sent(shoal.hears("c", shoal.advert("c")), "c") == [Accused(1)]
    shoal.now += 1.0
    assert sent(shoal.hears("c", shoal.advert("c", 0 + 1)), "c") == [Accused(1)]
    shoal.hears("c", shoal.advert("c", 2))
    assert shoal.state("c") is ALIVE


def test_a_peer_whose_database_was_lost_is_told_how_far_it_was(shoal: OnePeer) -> None:
    shoal.hears("a", shoal.advert("a", 500))
    shoal.now += 1.0
    assert sent(shoal.hears("a", shoal.advert("a", 2)), "a") == [Accused(500)]


def test_who_holds_an_old_advert_is_given_the_new_one(shoal: OnePeer) -> None:
    shoal.gossip(shoal.advert("c", 5))
    assert sent(shoal.hears("a", shoal.advert("c", 2)), "a") == [Rumours((shoal.advert("c", 5),))]
    assert shoal.receive("a", SyncRecords(0, (shoal.advert("c", 3),))) == [], "it compares anyhow"


def test_many_replies_come_in_bounded_messages(me: OnePeer) -> None:
    names = [f"peer-{index}" for index in range(400)]
    for name in names:
        me.gossip(me.advert(name, 2))
    me.connect("a")
    answers = sent(me.hears("a", *(me.advert(name, 1) for name in names)), "a")
    assert len(answers) > 1
    assert all(isinstance(each, Rumours) for each in answers)
    total = [record for each in answers if isinstance(each, Rumours) for record in each.records]
    assert total == [me.advert(name, 2) for name in names]


# ---- suspicion -----------------------------------------------------------------------------------


def test_two_accusers_and_four_seconds_make_a_death(shoal: OnePeer) -> None:
    first, second = shoal.suspicion("a", "c"), shoal.suspicion("b", "c")
    effects = shoal.gossip(first)
    assert shoal.drain() == [("c", ALIVE, SUSPECT)] and told(effects) == ["peer.suspect"]
    shoal.gossip(first)
    shoal.gossip(second)
    start = shoal.now
    effects = shoal.until(start + 3.9, ("a", "b", "d"))
    assert shoal.state("c") is SUSPECT
    effects = shoal.until(start + 4.1, ("a", "b", "d"))
    assert shoal.drain() == [("c", SUSPECT, DEAD)]
    assert told(effects) == ["peer.dead"] and hung_up(effects) == ["c"]
    tell = next(e for e in effects if isinstance(e, Tell))
    assert tell.text == "c is dead: silent, say a, b"
    assert shoal.peer("c").evidence == (first, second)


def test_one_accuser_among_many_is_not_enough(shoal: OnePeer) -> None:
    shoal.gossip(shoal.suspicion("a", "c"))
    seen = shoal.until(shoal.now + 9.0, EVERYBODY)
    assert 2 < sent(seen, "c").count(Accused(1)) < 12, "told while it speaks, not each time"
    assert shoal.state("c") is SUSPECT
    shoal.gossip(shoal.advert("c", 2))
    assert shoal.drain() == [("c", ALIVE, SUSPECT), ("c", SUSPECT, ALIVE)]


def test_a_suspect_that_speaks_to_us_is_not_buried(shoal: OnePeer) -> None:
    shoal.gossip(shoal.suspicion("b", "a"), shoal.suspicion("c", "a"))
    effects = shoal.until(shoal.now + 30.0, EVERYBODY)
    assert shoal.state("a") is SUSPECT
    assert sent(effects, "a").count(Accused(1)) > 10


def test_connected_to_a_suspect_we_tell_it(shoal: OnePeer) -> None:
    assert sent(shoal.gossip(shoal.suspicion("b", "a"))) == [Accused(1)]
    assert sent(shoal.gossip(shoal.suspicion("b", "c"))) == []


def test_a_stale_accusation_is_answered_with_the_refutation(shoal: OnePeer) -> None:
    shoal.gossip(shoal.advert("c", 2))
    stale = shoal.suspicion("a", "c", 1)
    assert shoal.gossip(stale) == []
    assert sent(shoal.hears("a", stale), "a") == [Rumours((shoal.advert("c", 2),))]
    assert shoal.state("c") is ALIVE


def test_an_accusation_of_an_incarnation_not_heard_of_yet_counts(shoal: OnePeer) -> None:
    shoal.gossip(shoal.suspicion("a", "c", 1))
    shoal.gossip(shoal.suspicion("a", "c", 2), shoal.suspicion("b", "c", 2))
    assert shoal.peer("c").incarnation == 2
    shoal.gossip(shoal.advert("c", 2))
    assert shoal.state("c") is SUSPECT, "that is what it is accused at"
    assert shoal.peer("c").data == shoal.advert("c", 2)
    assert shoal.gossip(shoal.suspicion("a", "c", 3 + JUMP_MAX)) == [], "an absurd one does not"


def test_accusations_of_strangers_and_of_the_absent_say_nothing(shoal: OnePeer) -> None:
    assert shoal.gossip(shoal.suspicion("a", "stranger")) == []
    bury(shoal, "c")
    assert shoal.gossip(shoal.suspicion("b", "c"), shoal.suspicion("b", "c", 9)) == []
    assert shoal.drain() == []


def test_as_monitors_become_suspect_fewer_are_waited_for(shoal: OnePeer) -> None:
    """Cut off with c alone: a, b and d are suspect, so nobody else will accuse c."""
    for name in ("a", "b", "d"):
        shoal.gossip(shoal.suspicion("c", name))
    shoal.gossip(shoal.suspicion("d", "c"))
    shoal.membership.disconnected(PeerId("a"), False, shoal.clock)
    start = shoal.now
    shoal.until(start + 40.0)
    assert [shoal.state(name) for name in EVERYBODY] == [DEAD] * 4
    assert shoal.membership.size == 1


# ---- refused -------------------------------------------------------------------------------------


def test_a_refused_port_is_believed_at_once(shoal: OnePeer) -> None:
    data = shoal.suspicion("a", "c", why=REFUSED)
    effects = shoal.gossip(data)
    assert shoal.drain() == [("c", ALIVE, DEAD)]
    assert told(effects) == ["peer.dead"] and hung_up(effects) == ["c"]


def test_but_for_whom_we_have_a_stream_to_it(shoal: OnePeer) -> None:
    effects = shoal.gossip(shoal.suspicion("a", "b", why=REFUSED))
    assert sent(effects, "b") == [Accused(1)]
    assert shoal.state("b") is SUSPECT
    shoal.now += 0.1
    shoal.receive("b", Ack(0))
    shoal.until(shoal.now + 3, EVERYBODY)
    assert shoal.state("b") is SUSPECT, "it answers; it has yet to refute"
    shoal.hears("b", shoal.advert("b", 2))
    assert shoal.state("b") is ALIVE


def test_and_then_only_if_it_answers(shoal: OnePeer) -> None:
    shoal.gossip(shoal.suspicion("a", "b", why=REFUSED))
    shoal.gossip(shoal.suspicion("c", "b"))
    shoal.until(shoal.now + 0.9, ("a", "c", "d"))
    assert shoal.drain() == [("b", ALIVE, SUSPECT), ("b", SUSPECT, DEAD)]


def test_the_same_accuser_may_learn_more(shoal: OnePeer) -> None:
    shoal.gossip(shoal.suspicion("a", "b"))
    data = shoal.suspicion("a", "b", why=REFUSED)
    shoal.gossip(data)
    shoal.until(shoal.now + 0.9, ("a", "c", "d"))
    assert shoal.state("b") is DEAD
    assert shoal.peer("b").evidence == (data,)


def test_our_own_broken_stream_to_a_refusing_port(shoal: OnePeer) -> None:
    effects = shoal.membership.disconnected(PeerId("a"), True, shoal.clock)
    assert shoal.drain() == [("a", ALIVE, DEAD)]
    assert told(effects) == ["peer.dead"]
    data = shoal.suspicion("me", "a", why=REFUSED)
    later = effects + shoal.until(shoal.now + 3, ("b", "c", "d"))
    assert gossiped(later).count(data) == 1, "by whomever it is first seen"
    assert shoal.membership.disconnected(PeerId("a"), True, shoal.clock) == []


def test_one_of_its_monitors_says_so_and_the_others_keep_quiet() -> None:
    at_once = 0
    for name in ("m1", "m2", "m3", "m4"):
        one = OnePeer(name=name)
        one.start()
        others = [other for other in ("m1", "m2", "m3", "m4", "x") if other != name]
        one.connect(*others)
        one.until(one.now + 3, tuple(others))
        effects = one.membership.disconnected(PeerId("x"), True, one.clock)
        if gossiped(effects):
            at_once += 1
            continue
        one.gossip(one.suspicion(next(o for o in others if o != "x"), "x", why=REFUSED))
        assert gossiped(one.until(one.now + 3, tuple(others[:-1]))) == []
    assert at_once == 1


# ---- ourselves -----------------------------------------------------------------------------------


def test_accused_we_raise_the_incarnation_save_it_and_tell_all(shoal: OnePeer) -> None:
    shoal.now += 5.0
    effects = shoal.receive("a", Accused(1))
    assert isinstance(effects[0], Save) and effects[0].rows[0][:2] == ("meta", "incarnation")
    assert told(effects) == ["self.refuted"]
    (advert,) = gossiped(effects)
    assert sent(effects, "a") == [Rumours((advert,))]
    assert sorted({e.peer for e in effects if isinstance(e, Send)}) == ["a", "b", "c", "d"]
    assert shoal.membership.incarnation == 2
    assert sent(shoal.receive("b", Accused(1))) == [Rumours((advert,))], "late: shown, not raised"
    assert shoal.membership.incarnation == 2


@pytest.mark.parametrize("way", ["gossip", "told", "compared"])
def test_we_refute_whichever_way_we_hear_of_it(shoal: OnePeer, way: str) -> None:
    shoal.now += 5.0
    data = shoal.suspicion("c", "me")
    if way == "gossip":
        effects = shoal.gossip(data)
    elif way == "told":
        effects = shoal.hears("a", data)
    else:
        effects = shoal.receive("a", SyncRecords(0, (data,)))
    assert told(effects) == ["self.refuted"]
    assert len(sent(effects, "c" if way == "gossip" else "a")) == 1


def test_refutations_are_paced(shoal: OnePeer) -> None:
    shoal.now += 5.0
    shoal.receive("a", Accused(1))
    assert rows(shoal.receive("b", Accused(2))) == []
    assert rows(shoal.receive("c", Accused(2))) == []
    effects = shoal.until(shoal.now + 1.1, EVERYBODY)
    assert told(effects) == ["self.refuted"]
    assert shoal.membership.incarnation == 3


def test_absurd_accusations_of_us_are_not_refuted(shoal: OnePeer) -> None:
    shoal.now += 5.0
    with pytest.raises(RemoteProtocolError):
        shoal.receive("a", Accused(2 + JUMP_MAX))
    assert shoal.gossip(shoal.suspicion("a", "me", 2 + JUMP_MAX)) == []
    assert shoal.membership.incarnation == 1


def test_an_earlier_life_s_records_are_outdone(shoal: OnePeer) -> None:
    shoal.now += 5.0
    effects = shoal.hears("a", shoal.advert("me", 40))
    assert shoal.membership.incarnation == 41
    assert told(effects) == ["self.refuted"]
    shoal.now += 5.0
    shoal.gossip(shoal.departure("me", 50))
    assert shoal.membership.incarnation == 51
    assert shoal.receive("a", SyncRecords(0, (shoal.advert("me", 9),))) == []
    effects = shoal.hears("a", shoal.advert("me", 8))
    assert len(sent(effects, "a")) == 1, "who still has that is shown the last one"


def test_before_we_were_described_there_is_nothing_to_show() -> None:
    me = OnePeer(incarnation=7)
    me.membership.boot(me.clock)
    me.connect("a", tell=False)
    assert me.receive("a", Accused(1)) == []
    assert me.hears("a", me.advert("me", 2)) == []
    effects = me.receive("a", Accused(8))
    assert [row[:2] for row in rows(effects)] == [("meta", "incarnation")]
    assert sent(effects) == gossiped(effects) == []
    effects = me.membership.describe(DESCRIBED, me.clock)
    assert len(gossiped(effects)) == 1 and me.membership.incarnation == 9


# ---- departures ----------------------------------------------------------------------------------


def test_who_leaves_is_neither_dialled_nor_probed(shoal: OnePeer) -> None:
    data = shoal.departure("a")
    effects = shoal.hears("a", data)
    assert shoal.drain() == [("a", ALIVE, LEFT)]
    assert told(effects) == ["peer.left"]
    shoal.membership.disconnected(PeerId("a"), True, shoal.clock)
    assert shoal.state("a") is LEFT
    later = shoal.until(shoal.now + 10, ("b", "c", "d"))
    assert [m for m in sent(later, "a") if not isinstance(m, Accused)] == []
    assert shoal.gossip(data) == []


def test_a_planned_restart_is_no_death_until_it_takes_too_long(shoal: OnePeer) -> None:
    data = shoal.departure("c", until_s=shoal.now + 20)
    assert told(shoal.gossip(data)) == ["peer.restarting"]
    assert shoal.membership.alive() == ["a", "b", "d"]
    start = shoal.now
    shoal.until(start + 19.0, ("a", "b", "d"))
    assert shoal.state("c") is RESTARTING
    shoal.until(start + 21.0, ("a", "b", "d"))
    assert shoal.drain() == [("c", ALIVE, RESTARTING), ("c", RESTARTING, DEAD)]
    assert shoal.gossip(data) == [], "a replay restarts nothing"
    shoal.gossip(shoal.advert("c", 2))
    assert shoal.gossip(data) == []
    assert shoal.state("c") is ALIVE


@pytest.mark.parametrize(
    ("trusted", "until_s", "expected"),
    [(True, 9e6, 3600), (True, -50.0, 4), (False, 0.0, 3600), (True, 160.0, 60)],
)
def test_what_a_wrong_clock_says_of_a_restart_is_bounded(
    shoal: OnePeer, trusted: bool, until_s: float, expected: int
) -> None:
    shoal.wall_trusted = trusted
    shoal.gossip(shoal.departure("c", until_s=until_s))
    assert shoal.peer("c").until == pytest.approx(shoal.now + expected)


def test_departures_of_strangers_and_of_earlier_lives_say_nothing(shoal: OnePeer) -> None:
    assert shoal.gossip(shoal.departure("stranger")) == []
    shoal.gossip(shoal.advert("c", 3))
    old = shoal.departure("c", 2)
    assert shoal.gossip(old) == []
    assert sent(shoal.hears("a", old), "a") == [Rumours((shoal.advert("c", 3),))]
    assert shoal.state("c") is ALIVE


# ---- garbage -------------------------------------------------------------------------------------


def test_what_no_correct_peer_sends_is_refused_whole(shoal: OnePeer) -> None:
    good = shoal.advert("e")
    broken = bytearray(shoal.advert("f"))
    broken[40] ^= 1
    bad = [
        b"",
        b"\xff" * 30,
        bytes(broken),
        b"x" * (RECORD_BYTES_MAX + 1),
        shoal.advert("f", by="a"),
        shoal.sealed("a", shoal.certificate("a")),
        shoal.advert("f", 0),
        shoal.advert("f", INCARNATION_MAX + 1),
        shoal.suspicion("c", "c"),
    ]
    for data in bad:
        for hear in (lambda d: shoal.hears("a", good, d), lambda d: shoal.gossip(good, d)):
            with pytest.raises(RemoteProtocolError):
                hear(data)
    assert shoal.membership.peer(PeerId("e")) is None, "not even its good part"
    assert shoal.drain() == []


def test_a_replay_of_all_that_was_ever_said_changes_nothing(shoal: OnePeer) -> None:
    said = [
        shoal.advert("c", 2),
        shoal.suspicion("a", "c", 2),
        shoal.suspicion("b", "c", 2),
        shoal.advert("c", 3),
        shoal.departure("d", 1, until_s=shoal.now + 30),
        shoal.advert("d", 2),
        shoal.suspicion("a", "me", 1),
    ]
    shoal.now += 5
    for data in said:
        shoal.gossip(data)
    shoal.drain()
    own = shoal.membership.incarnation
    for data in said * 2:
        shoal.gossip(data)
        shoal.hears("b", data)
    assert shoal.drain() == []
    assert shoal.membership.alive() == ["a", "b", "c", "d"]
    assert shoal.membership.incarnation == own
    assert ME not in [peer.id for peer in shoal.membership.peers()]

"""Membership: transcripts of one peer, then whole shoals under faults."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from protocol.advertising import JUMP_MAX
from protocol.antientropy import BUCKETS
from protocol.config import MembershipConfig
from protocol.effects import Dial, Effect, Gossip, Save, Send
from protocol.errors import RemoteProtocolError
from protocol.events import SelfDescribed
from protocol.ids import PeerId
from protocol.membership import HALF_OPEN_S
from protocol.messages import (
    Accused,
    Ack,
    PathQuery,
    PathReport,
    Ping,
    PingReport,
    PingRequest,
    Rumours,
    SyncBuckets,
    SyncItems,
    SyncRecords,
    SyncRoot,
    SyncWant,
)
from protocol.records import Advert, Departure
from protocol.roster import State
from protocol.wire import dumps, loads, open_sealed
from tests.protocol.onepeer import (
    DESCRIBED,
    WALL,
    OnePeer,
    dialled,
    gossiped,
    hung_up,
    rows,
    sent,
    told,
)
from tests.protocol.shoalnet import ShoalNet

UNHEARD, ALIVE, SUSPECT = State.UNHEARD, State.ALIVE, State.SUSPECT
DEAD, LEFT, RESTARTING = State.DEAD, State.LEFT, State.RESTARTING
LAN = MembershipConfig()


@pytest.fixture
def me() -> OnePeer:
    one = OnePeer()
    one.start()
    return one


# ---- our own life --------------------------------------------------------------------------------


def test_the_incarnation_is_saved_before_the_first_advert() -> None:
    me = OnePeer(incarnation=6)
    assert me.membership.deadline == inf
    effects = me.start()
    assert effects[0] == Save((("meta", "incarnation", dumps(7)),))
    assert [type(effect) for effect in effects] == [Save, Gossip]
    record = open_sealed(gossiped(effects)[0], me.shoal.keyring("me")).record
    assert isinstance(record, Advert) and record.incarnation == 7


def test_a_change_of_ourselves_is_pushed_to_the_connected_at_once(me: OnePeer) -> None:
    me.connect("a", "b")
    changed = SelfDescribed(DESCRIBED.addresses, {"zone": "cellar"}, 4000, 1, 1)
    assert me.membership.describe(DESCRIBED, me.clock) == []
    effects = me.membership.describe(changed, me.clock)
    (advert,) = [data for data in gossiped(effects) if b"cellar" in data]
    assert Send(PeerId("a"), Rumours((advert,))) in effects
    assert Send(PeerId("b"), Rumours((advert,))) in effects
    assert loads(rows(effects)[0][2] or b"") == 2


def test_a_fourth_change_waits_until_the_period_is_over(me: OnePeer) -> None:
    me.connect("a", "b")
    for number in range(3):
        changed = SelfDescribed((), {"turn": str(number)}, 1, 1, 1)
        assert gossiped(me.membership.describe(changed, me.clock))
    assert me.membership.describe(SelfDescribed((), {"turn": "last"}, 1, 1, 1), me.clock) == []
    early = me.until(me.now + LAN.advert_period_s - 1.0, ("a", "b"))
    assert not [data for data in gossiped(early) if b"last" in data]
    effects = me.until(me.now + 1.0, ("a", "b"))
    assert [data for data in gossiped(effects) if b"last" in data]


def test_other_labels_of_a_peer_are_news_and_other_addresses_are_none(me: OnePeer) -> None:
    me.connect("a")
    me.drain()
    me.hears("a", me.advert("a", 2))
    assert me.drain() == []
    me.hears("a", me.advert("a", 3, cpu_m=2000))
    assert me.drain() == [("a", State.ALIVE, State.ALIVE)]


def test_a_peer_that_is_gone_can_be_forgotten_and_is_met_anew(me: OnePeer) -> None:
    me.connect("a", "b")
    for name, said in (("a", "a is alive"), ("nobody", "no such peer")):
        refusal, effects = me.membership.forget(PeerId(name), me.clock)
        assert refusal.startswith(said) and effects == []
    me.hears("a", me.departure("a", until_s=me.now + 60.0))
    me.membership.disconnected(PeerId("a"), False, me.clock)
    assert me.membership.forget(PeerId("a"), me.clock)[0].startswith("a restarts")
    me.membership.disconnected(PeerId("b"), True, me.clock)
    assert me.state("b") is State.DEAD
    refusal, effects = me.membership.forget(PeerId("b"), me.clock)
    assert refusal == "" and rows(effects) == [("peer", "b", None)]
    assert [e for e in effects if isinstance(e, Dial)] == [Dial(PeerId("b"), ())]
    assert me.membership.peer(PeerId("b")) is None
    me.connect("b")
    assert me.state("b") is State.ALIVE


def test_whom_the_disk_remembers_is_dialled_and_not_taken_for_alive(me: OnePeer) -> None:
    known = {
        "a": me.advert("a", 4),
        "b": me.advert("b"),
        "me": me.advert("me"),
        "c": b"garbage",
        "d": me.advert("b"),
        "e": me.suspicion("e", "a"),
    }
    again = OnePeer(known=known)
    effects = again.membership.boot(again.clock)
    assert sorted(dialled(effects)) == ["a", "b"]
    assert rows(effects)[1:] == [("peer", name, None) for name in "cde"]
    assert again.membership.alive() == [] and again.drain() == []
    assert [peer.state for peer in again.membership.peers()] == [UNHEARD, UNHEARD]
    assert told(again.connect("a", tell=False)) == ["peer.alive"]
    assert again.drain() == [("a", UNHEARD, ALIVE)]
    assert again.peer("a").incarnation == 4
    assert told(again.gossip(known["b"])) == ["peer.alive"]


def test_an_accusation_of_whom_we_only_remember_says_nothing(me: OnePeer) -> None:
    again = OnePeer(known={"a": me.advert("a", 4)})
    again.start()
    again.gossip(again.suspicion("b", "a", 4))
    assert again.state("a") is UNHEARD
    assert again.membership.disconnected(PeerId("a"), True, again.clock) == []
    assert again.state("a") is UNHEARD


def test_a_clean_shutdown_says_so_and_falls_silent(me: OnePeer) -> None:
    me.connect("a")
    effects = me.membership.depart(me.clock, 0.0)
    (data,) = gossiped(effects)
    record = open_sealed(data, me.shoal.keyring("me")).record
    assert record == Departure(peer=PeerId("me"), incarnation=1, until_ms=0)
    assert sent(effects, "a") == [Rumours((data,))]
    assert me.membership.deadline == inf
    me.now += 100
    assert me.membership.on_deadline(me.clock) == []
    assert me.receive("a", Ping(3)) == [Send(PeerId("a"), Ack(3))]
    assert me.receive("a", Accused(1)) == me.gossip(me.suspicion("a", "me")) == []
    assert me.membership.disconnected(PeerId("a"), True, me.clock) == []


def test_a_planned_restart_says_until_when(me: OnePeer) -> None:
    (data,) = gossiped(me.membership.depart(me.clock, 30.0))
    record = open_sealed(data, me.shoal.keyring("me")).record
    assert isinstance(record, Departure)
    assert record.until_ms == (WALL + me.now + 30) * 1000


# ---- connections ---------------------------------------------------------------------------------


def test_on_connecting_both_push_and_one_compares(me: OnePeer) -> None:
    effects = me.connect("z", tell=False)
    assert told(effects) == ["peer.joined"]
    assert sent(effects, "z") == [Rumours((me.own_advert(),))]
    later = me.until(me.now + 0.6, ("z",))
    assert [m for m in sent(later, "z") if isinstance(m, SyncRoot)] != []
    me.connect("a", tell=False)
    later = me.until(me.now + 0.6, ("a", "z"))
    assert [m for m in sent(later, "a") if isinstance(m, SyncRoot)] == [], "a < me: a begins"


def test_without_a_description_there_is_nothing_to_push() -> None:
    me = OnePeer()
    me.membership.boot(me.clock)
    assert sent(me.connect("a", tell=False)) == []


def test_who_is_gone_before_the_comparison_is_left_out(me: OnePeer) -> None:
    me.connect("y", "z")
    me.membership.disconnected(PeerId("z"), False, me.clock)
    later = me.until(me.now + 1.0, ("y",))
    assert [m for m in sent(later, "z") if isinstance(m, SyncRoot)] == []
    assert [m for m in sent(later, "y") if isinstance(m, SyncRoot)] != []


def test_a_broken_stream_is_followed_by_a_probe(me: OnePeer) -> None:
    me.connect("a")
    assert me.membership.disconnected(PeerId("a"), False, me.clock) == []
    assert me.state("a") is ALIVE and not me.peer("a").connected
    assert Ping(1) in sent(me.until(me.now, ()), "a")
    assert me.membership.disconnected(PeerId("stranger"), True, me.clock) == []


def test_reachable_is_alive_and_somewhere(me: OnePeer) -> None:
    me.connect("a", tell=False)
    me.gossip(me.advert("b"))
    assert me.membership.reachable(PeerId("a")) and me.membership.reachable(PeerId("b"))
    me.membership.disconnected(PeerId("a"), False, me.clock)
    assert not me.membership.reachable(PeerId("a")), "no stream and no address"
    me.gossip(me.suspicion("a", "b"))
    assert not me.membership.reachable(PeerId("b"))
    assert not me.membership.reachable(PeerId("stranger"))
    assert me.membership.size == 3


def test_in_a_large_shoal_links_are_chosen_anew_after_a_while(me: OnePeer) -> None:
    names = [f"p{index:02d}" for index in range(60)]
    effects = me.gossip(*(me.advert(name) for name in names))
    assert len(dialled(effects)) == 32
    effects = me.until(me.now + 1.1, tuple(names))
    dropped = [e.peer for e in effects if isinstance(e, Dial) and not e.addresses]
    assert len(dropped) >= 11


# ---- probes --------------------------------------------------------------------------------------


def test_a_ping_is_answered(me: OnePeer) -> None:
    assert me.receive("stranger", Ping(9)) == [Send(PeerId("stranger"), Ack(9))]


def test_a_ping_for_another_is_relayed_and_its_answer_reported(me: OnePeer) -> None:
    me.connect("a", "b")
    assert me.receive("a", PingRequest(4, PeerId("b"))) == [Send(PeerId("b"), Ping(1))]
    assert me.receive("b", Ack(1)) == [Send(PeerId("a"), PingReport(4, PeerId("b"), True))]
    assert me.receive("a", PingRequest(5, PeerId("me"))) == [
        Send(PeerId("a"), PingReport(5, PeerId("me"), True))
    ]
    assert me.receive("a", PingRequest(6, PeerId("stranger"))) == []
    me.hears("b", me.departure("b"))
    assert me.receive("a", PingRequest(7, PeerId("b"))) == []


def test_nobody_is_accused_of_more_than_it_can_refute(me: OnePeer) -> None:
    """However often the accuser speaks: what it said last is no step to say more."""
    me.connect("a", "b")
    for step in range(1, 7):
        me.hears("b", me.suspicion("b", "a", 1 + step * JUMP_MAX))
    entry = me.membership.peer(PeerId("a"))
    assert entry is not None and entry.incarnation == 1 + JUMP_MAX
    me.hears("a", me.advert("a", 2 + JUMP_MAX))
    assert me.state("a") is ALIVE


def test_silence_is_asked_about_and_then_told_to_all(me: OnePeer) -> None:
    me.connect("a", "b", "c", "d", "e")
    effects = me.until(me.now + 5.0, ("a", "b", "c", "d"))
    asked = [e.peer for e in effects if isinstance(e, Send) and isinstance(e.message, PingRequest)]
    assert len(asked) % LAN.indirect == 0 and "e" not in asked
    data = me.suspicion("me", "e")
    assert gossiped(effects).count(data) == 1
    assert Accused(1) in sent(effects, "e")
    for name in ("a", "b", "c", "d"):
        assert Rumours((data,)) in sent(effects, name)
    assert me.state("e") is SUSPECT


def test_what_others_reached_is_not_accused(me: OnePeer) -> None:
    me.connect("a", "b", "c", "e")
    for _ in range(60):
        effects = me.until(me.membership.deadline, ("a", "b", "c"))
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, PingRequest):
                report = PingReport(effect.message.seq, effect.message.target, True)
                me.receive(effect.peer, report)
    assert me.state("e") is ALIVE


def test_when_enough_have_accused_we_add_nothing(me: OnePeer) -> None:
    me.connect("a", "b", "c", "d", "e")
    me.until(me.now + 2, ("a", "b", "c", "d", "e"))
    me.gossip(me.suspicion("a", "e"), me.suspicion("b", "e"))
    effects = me.until(me.now + 3.5, ("a", "b", "c", "d"))
    assert gossiped(effects) == []


def test_the_first_advert_of_a_peer_that_is_there_already_is_news(me: OnePeer) -> None:
    """Whoever counts who has what has looked at it before, and found nothing."""
    me.connect("a", tell=False)
    assert [each[2] for each in me.drain()] == [ALIVE]
    me.hears("a", me.advert("a"))
    assert me.drain() == [("a", ALIVE, ALIVE)]
    me.hears("a", me.advert("a", incarnation=2))
    assert me.drain() == []


def test_if_nobody_answers_it_is_first_our_own_trouble(me: OnePeer) -> None:
    me.connect("a", "b")
    start = me.now
    me.until(start + 5.0)
    assert [each for each in me.drain() if each[1] is not each[2]][2:] == []
    me.until(start + 40.0)
    assert me.membership.alive() == [], "but not for ever"


def test_a_frozen_process_accuses_nobody_on_thawing(me: OnePeer) -> None:
    me.connect("a", "b", "c")
    me.until(me.now + 10, ("a", "b", "c"))
    me.gossip(me.suspicion("a", "c"), me.suspicion("b", "c"))
    me.drain()
    me.now += 60.0
    effects = me.membership.on_deadline(me.clock)
    assert gossiped(effects) == [] and me.drain() == []
    effects = me.until(me.now + 3.0, ("a", "b"))
    assert me.state("c") is SUSPECT, "it gets its whole time once more"
    me.until(me.now + 10.0, ("a", "b"))
    assert me.state("c") is DEAD


def test_lag_told_by_the_driver_stretches_what_pends(me: OnePeer) -> None:
    me.connect("a", "b", "c")
    me.until(me.now + 10, ("a", "b", "c"))
    me.gossip(me.suspicion("a", "c"), me.suspicion("b", "c"))
    case = me.peer("c").case
    assert case is not None
    end = case.deadline
    me.until(end - 0.3, ("a", "b"))
    me.membership.lagged(0.01, me.clock)
    assert case.deadline == end
    me.membership.lagged(0.5, me.clock)
    assert case.deadline == pytest.approx(end + 0.2)


# ---- anti-entropy --------------------------------------------------------------------------------


def test_adverts_are_compared_with_somebody_from_time_to_time(me: OnePeer) -> None:
    me.connect("z")
    me.until(me.now + 5, ("z",))
    effects = me.until(me.now + 2 * LAN.sync_period_s, ("z",))
    roots = [message for message in sent(effects) if isinstance(message, SyncRoot)]
    assert 1 <= len(roots) <= 3


def test_alone_there_is_nobody_to_compare_with(me: OnePeer) -> None:
    assert sent(me.until(me.now + 2 * LAN.sync_period_s)) == []


def test_what_differs_is_listed_wanted_and_given(me: OnePeer) -> None:
    me.connect("a")
    (buckets,) = sent(me.receive("a", SyncRoot(0, b"other")), "a")
    assert isinstance(buckets, SyncBuckets)
    (items,) = sent(me.receive("a", SyncBuckets(0, (bytes(8),) * BUCKETS)), "a")
    assert isinstance(items, SyncItems) and sorted(key for key, _ in items.items) == ["a", "me"]
    every = tuple(range(BUCKETS))
    want, given_ = sent(me.receive("a", SyncItems(0, every, (("x", b"12345678"),))), "a")
    assert want == SyncWant(0, ("x",))
    assert isinstance(given_, SyncRecords)
    assert sorted(given_.records) == sorted((me.advert("a"), me.own_advert()))
    assert sent(me.receive("a", SyncWant(0, ("a",))), "a") == [SyncRecords(0, (me.advert("a"),))]


def test_news_by_comparison_is_followed_by_another_one(me: OnePeer) -> None:
    me.connect("a", "b")
    me.until(me.now + 5, ("a", "b"))
    me.receive("a", SyncRecords(0, (me.advert("c"),)))
    later = me.until(me.now + 1.5, ("a", "b", "c"))
    assert [m for m in sent(later, "a") if isinstance(m, SyncRoot)] != []
    me.receive("a", SyncRecords(0, (me.advert("c"),)))
    later = me.until(me.now + 1.5, ("a", "b", "c"))
    assert [m for m in sent(later) if isinstance(m, SyncRoot)] == [], "no news, no more of it"


def test_whom_a_neighbour_lists_as_we_remember_it_is_alive(me: OnePeer) -> None:
    known = {"a": me.advert("a"), "b": me.advert("b")}
    me.gossip(*known.values())
    version = me.membership.reconciler.version("a")
    assert version is not None
    again = OnePeer(known=known)
    again.start()
    again.connect("z")
    again.receive("z", SyncItems(0, (), (("a", version), ("b", version))))
    assert again.membership.alive() == ["a", "z"]
    again.receive("z", SyncItems(0, (), (("a", version),)))
    assert again.membership.alive() == ["a", "z"]


def test_what_is_not_of_adverts_or_of_no_reconciler_is_refused(me: OnePeer) -> None:
    for message in (SyncRoot(1, b""), SyncBuckets(0, ()), SyncItems(0, (99,), ())):
        with pytest.raises(RemoteProtocolError):
            me.receive("a", message)


# ---- whole shoals --------------------------------------------------------------------------------


def names(count: int) -> list[str]:
    return [f"p{index:03d}" for index in range(count)]


def fleet(count: int, seed: int = 1, config: MembershipConfig = LAN) -> ShoalNet:
    """All booted within a second, all known to all, and settled."""
    net = ShoalNet(names(count), seed, config)
    net.boot_all()
    net.run(5.0)
    assert net.all_alive() and not net.deaths()
    return net


@pytest.mark.parametrize("count", [2, 3, 8, 20, 50])
def test_peers_that_start_together_find_each_other(count: int) -> None:
    net = ShoalNet(names(count))
    assert net.boot_all() < 10.0
    net.run(30.0)
    assert net.all_alive() and not net.deaths()
    assert net.gossips < 3 * count + 6, "adverts told to many are gossiped by few"


def test_a_newcomer_is_known_to_all_at_once() -> None:
    net = ShoalNet(names(9))
    net.members.pop(PeerId("p008"))
    newcomer = ShoalNet(names(9)).members[PeerId("p008")]
    net.boot_all()
    net.run(5.0)
    net.members[newcomer.id] = newcomer
    net.boot("p008", ["p003"])
    assert net.run_until(net.all_alive) < 2.0


def test_idle_peers_say_little_and_gossip_nothing() -> None:
    """The budget is 60 KB a minute and peer; and it must not grow with the shoal."""
    bytes_a_minute = []
    for count in (20, 60):
        net = fleet(count)
        net.run(30.0)
        gossips, before = net.gossips, {m.id: m.sent_bytes for m in net.members.values()}
        net.run(120.0)
        assert net.gossips == gossips
        bytes_a_minute.append(max(m.sent_bytes - before[m.id] for m in net.members.values()) / 2)
    assert max(bytes_a_minute) < 15_000
    assert bytes_a_minute[1] < 1.1 * bytes_a_minute[0]


def test_a_silent_death_is_known_in_six_seconds() -> None:
    times = []
    for seed in range(30):
        net = fleet(8, seed)
        net.run(seed * 0.17)
        start = net.now
        net.vanish("p003")
        net.run_until(lambda n=net: n.known("p003", DEAD), 20.0)
        assert {seen.change.peer for seen in net.deaths()} == {"p003"}
        times += [seen.at - start for seen in net.deaths()]
    times.sort()
    assert times[len(times) // 2] < 6.5
    assert times[-1] < 8.0


def test_on_a_wan_it_takes_half_a_minute() -> None:
    net = fleet(6, config=MembershipConfig.preset("wan"))
    start = net.now
    net.vanish("p002")
    net.run_until(lambda: net.known("p002", DEAD))
    assert 25.0 < net.now - start < 35.0


def test_a_killed_process_is_known_to_be_dead_at_once() -> None:
    net = fleet(8)
    start, gossips = net.now, net.gossips
    net.kill("p003")
    net.run_until(lambda: net.known("p003", DEAD), 2.0)
    assert net.now - start < 1.0
    net.run(5.0)
    assert net.gossips - gossips <= 2, "all saw it; one says it"
    net.boot("p003", ["p001"])
    assert net.run_until(net.all_alive) < 2.0


def test_a_lone_survivor_takes_longer_and_gets_there() -> None:
    net = fleet(2)
    start = net.now
    net.vanish("p001")
    net.run_until(lambda: net.known("p001", DEAD))
    assert 3 * LAN.suspicion_s < net.now - start < 3 * LAN.suspicion_s + 4.0
    net = fleet(4)
    for name in names(4)[1:]:
        net.vanish(name)
    net.run_until(lambda: net["p000"].alive() == [], 40.0)


def test_half_the_shoal_loses_its_power() -> None:
    net = fleet(20)
    for name in names(20)[::2]:
        net.vanish(name)
    assert net.run_until(net.all_alive, 60.0) < 40.0


@pytest.mark.parametrize("count", [8, 50])
def test_islands_part_and_meet_again(count: int) -> None:
    net = fleet(count)
    left, right = names(count)[: count // 3], names(count)[count // 3 :]
    net.part(left, right)

    def parted() -> bool:
        return all(
            net[name].alive() == [other for other in side if other != name]
            for side in (left, right)
            for name in side
        )

    net.run_until(parted, 60.0)
    net.heal()
    assert net.run_until(net.all_alive) < 20.0
    healed = net.now
    net.run(60.0)
    assert net.all_alive() and not net.deaths(healed)


def test_a_frozen_peer_is_dead_to_the_others_and_they_are_not_to_it() -> None:
    net = fleet(6)
    net.freeze("p002")
    net.run(30.0)
    assert net.known("p002", DEAD)
    thawed = net.now
    net.thaw("p002")
    assert net.run_until(net.all_alive) < 10.0
    net.run(30.0)
    assert net.all_alive() and not net.deaths(thawed)


def test_a_short_freeze_is_refuted() -> None:
    for seed in range(5):
        net = fleet(6, seed)
        net.freeze("p002")
        net.run(4.0)
        net.thaw("p002")
        net.run(30.0)
        assert net.all_alive() and not net.deaths()


@pytest.mark.parametrize("slow", [1, 3, 6])
def test_nobody_is_buried_for_having_no_time(slow: int) -> None:
    """With 95 % of the CPU taken by others, everything is handled up to two seconds late."""
    for seed in range(3):
        net = fleet(6, seed)
        net.slow = {PeerId(name): (0.0, 2.0) for name in names(slow)}
        net.run(200.0)
        assert not net.deaths()


def test_nobody_is_buried_under_heavy_loss() -> None:
    for seed in range(3):
        net = fleet(8, seed)
        net.loss = 0.3
        net.run(200.0)
        assert not net.deaths()
        net.loss = 0.0
        net.run(2 * LAN.sync_period_s)
        assert net.all_alive()


def test_who_missed_the_news_of_a_death_learns_it_by_comparison() -> None:
    net = fleet(8)
    net.vanish("p003")
    loss, net.loss = net.loss, 0.5
    net.run(10.0)
    net.loss = loss
    net.run_until(lambda: net.known("p003", DEAD), 20.0)


def test_a_peer_that_leaves_and_one_that_restarts() -> None:
    net = fleet(5)
    for name, back_in_s in (("p001", 0.0), ("p002", 20.0)):
        member = net.members[PeerId(name)]
        net.do(member, lambda m=member, s=back_in_s: m.membership.depart(net.clock(), s))
        net.run(0.3)
    net.kill("p001")
    net.kill("p002")
    net.run(5.0)
    assert not net.deaths()
    assert all(net.state(by, "p001") is LEFT for by in ("p000", "p003", "p004"))
    assert all(net.state(by, "p002") is RESTARTING for by in ("p000", "p003", "p004"))
    net.boot("p002")
    assert net.run_until(net.all_alive) < 2.0, "it remembers whom to dial"
    assert net.state("p002", "p001") is None, "and whom not to"


def test_a_whole_shoal_restarts_from_what_it_remembers() -> None:
    net = fleet(6)
    for name in names(6):
        net.kill(name)
    net.run(10.0)
    for name in names(5):
        net.boot(name)
    net.run_until(net.all_alive, 20.0)
    assert net.known("p005", UNHEARD), "nobody vouches for it"
    net.boot("p005")
    assert net.run_until(net.all_alive) < 5.0


def test_a_lost_database_costs_no_more_than_a_moment() -> None:
    net = fleet(4)
    for _ in range(5):
        net.kill("p001")
        net.run(1.0)
        net.boot("p001")
        net.run_until(net.all_alive)
    net.kill("p001")
    net.run(2.0)
    member = net.members[PeerId("p001")]
    member.incarnation, member.disk = 0, {}
    net.boot("p001", ["p000"])
    assert net.run_until(net.all_alive) < 10.0
    assert member.incarnation > 6


def test_the_dead_are_forgotten_in_the_end() -> None:
    net = fleet(4, config=replace(LAN, dead_kept_s=60.0))
    net.vanish("p003")
    net.run(60.0)
    assert net.known("p003", DEAD)
    net.run(20.0)
    assert all(net[name].peer(PeerId("p003")) is None for name in names(3))
    assert all(PeerId("p003") not in net.members[PeerId(name)].disk for name in names(3))
    net.run(2 * LAN.sync_period_s)
    assert all(net[name].peer(PeerId("p003")) is None for name in names(3)), "for good"


def test_a_seed_replays_exactly() -> None:
    def trace() -> list[object]:
        net = fleet(8, seed=5)
        net.loss = 0.2
        net.vanish("p001")
        net.run(60.0)
        return [net.seen, net.tells, [m.sent for m in net.members.values()]]

    assert trace() == trace()


# ---- through a common neighbour ------------------------------------------------------------------

T = PeerId("t")


def queries(effects: list[Effect]) -> dict[str, tuple[str, ...]]:
    """Who is asked for whom."""
    return {
        effect.peer: effect.message.peers
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, PathQuery)
    }


def asked_for_t(me: OnePeer) -> list[str]:
    """Whom the indirect probes of `t` go to, in three rounds."""
    effects = me.until(me.now + 3 * LAN.probe_period_s, answering=("r", "x", "y", "z"))
    return [
        effect.peer
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, PingRequest)
    ]


def test_a_path_is_asked_for_to_whom_a_connection_is_to_be_kept(me: OnePeer) -> None:
    me.connect("r", "s")
    me.hears("r", me.advert("t"))
    effects = me.until(me.now + 1.0, answering=("r", "s"))
    assert queries(effects) == {"r": ("t",), "s": ("t",)}
    me.receive("s", PathReport((T,), ()))
    assert me.membership.routes.through(T) == ["s"]
    assert me.membership.reached == ["t"]


def test_nobody_asks_where_all_are_connected(me: OnePeer) -> None:
    me.connect("r", "s", "t")
    assert queries(me.until(me.now + 10.0, answering=("r", "s", "t"))) == {}


def test_a_neighbour_is_told_whom_we_are_connected_to(me: OnePeer) -> None:
    me.connect("r", "s")
    me.hears("r", me.advert("t"))
    query = PathQuery((PeerId("s"), T, PeerId("u")))
    report = PathReport((PeerId("s"),), (T, PeerId("u")))
    assert Send(PeerId("r"), report) in me.receive("r", query)


def test_a_connection_that_is_lost_is_looked_for_elsewhere(me: OnePeer) -> None:
    me.connect("r", "t")
    me.membership.disconnected(T, False, me.clock)
    assert me.membership.routes.wanted() == ["t"]
    me.connect("t", tell=False)
    assert me.membership.routes.wanted() == []


def test_no_path_is_looked_for_to_who_is_gone(me: OnePeer) -> None:
    me.connect("r", "s")
    me.hears("r", me.advert("t"))
    me.hears("r", me.departure("t"))
    assert me.membership.routes.wanted() == []


def test_who_said_to_be_connected_is_asked_first(me: OnePeer) -> None:
    me.connect("r", "x", "y", "z")
    me.hears("r", me.advert("t"))
    me.membership.routes.learn(T, PeerId("z"), me.now)
    me.membership.routes.learn(T, PeerId("y"), me.now)
    asked = asked_for_t(me)
    rounds = len(asked) // LAN.indirect
    assert rounds >= 2 and asked.count("z") == asked.count("y") == rounds


def test_nobody_is_accused_while_a_path_is_looked_for(me: OnePeer) -> None:
    me.connect("r", "t")
    effects: list[Effect] = []
    while not any(isinstance(message, PingRequest) for message in sent(effects)):
        effects += me.until(me.now + 0.1, answering=("r",))
    me.membership.disconnected(T, False, me.clock)
    me.until(me.now + 0.9, answering=("r",))
    assert me.state("t") is ALIVE and me.membership.routes.searching(T)
    me.until(me.now + 10.0, answering=("r",))
    assert me.state("t") is not ALIVE, "nobody around us has a path: as far as we can know"


def test_a_letter_shows_a_peer_and_the_way_to_it(me: OnePeer) -> None:
    me.connect("r")
    me.membership.wrote(T, PeerId("r"), me.certificate("t"), me.clock)
    assert me.state("t") is ALIVE
    peer = me.peer("t")
    assert peer.certificate is not None and peer.heard == me.now
    assert me.membership.routes.through(T) == ["r"] and me.membership.reached == ["t"]
    me.membership.wrote(T, PeerId("r"), me.certificate("t"), me.clock)
    assert me.membership.reached == ["t"], "once"


def test_a_letter_on_a_standing_connection_means_that_it_is_half_open(me: OnePeer) -> None:
    me.connect("r", "t")
    wrote = (T, PeerId("r"), me.certificate("t"))
    assert hung_up(me.membership.wrote(*wrote, me.clock)) == [], "it crossed with the connection"
    me.now += HALF_OPEN_S + 1.0
    assert hung_up(me.membership.wrote(*wrote, me.clock)) == ["t"]


def test_a_connection_that_only_others_can_answer_for_is_closed(me: OnePeer) -> None:
    me.connect("r", "t")
    effects: list[Effect] = []
    for _ in range(200):
        effects += me.until(me.now + 0.1, answering=("r",))
        for effect in list(effects):
            if isinstance(effect, Send) and isinstance(effect.message, PingRequest):
                report = PingReport(effect.message.seq, T, True)
                effects += me.receive("r", report)
        if hung_up(effects):
            break
    assert hung_up(effects) == ["t"]
    assert me.state("t") is ALIVE, "others reach it"


def test_who_departs_or_has_a_full_table_takes_no_letters_in() -> None:
    me = OnePeer(config=replace(LAN, peers_max=1))
    wrote = (T, PeerId("r"))
    assert me.membership.wrote(*wrote, me.certificate("t"), me.clock) == [], "not started"
    assert me.membership.introduction(T) == []
    me.start()
    me.connect("r")
    assert me.membership.wrote(*wrote, me.certificate("t"), me.clock) == []
    assert [type(effect).__name__ for effect in me.membership.introduction(T)] == ["Send"]


# ---- leaves ----------------------------------------------------------------------------------

METERED = MembershipConfig.preset("metered")


@pytest.fixture
def leaf() -> OnePeer:
    """`me` on a metered link, with a, b and c for neighbours, two of which are its anchors."""
    one = OnePeer(config=METERED)
    one.start()
    one.connect("a", "b", "c")
    return one


def anchors_of(one: OnePeer) -> list[str]:
    return [p.id for p in one.membership.peers() if p.id in one.membership._roster.watched()]


def test_a_leaf_says_so_and_gossips_nothing() -> None:
    me = OnePeer(config=METERED)
    effects = me.start()
    assert gossiped(effects) == []
    me.connect("a")
    advert = open_sealed(me.own_advert(), me.shoal.keyring("me")).record
    assert isinstance(advert, Advert) and advert.keepalive_s == 120
    changed = SelfDescribed((), {"zone": "cellar"}, 1, 1, 1)
    effects = me.membership.describe(changed, me.clock)
    assert gossiped(effects) == [] and len(sent(effects, "a")) == 1
    goodbye = me.membership.depart(me.clock, 0.0)
    assert gossiped(goodbye) == [] and len(sent(goodbye, "a")) == 1


def test_a_leaf_keeps_its_anchors_and_lets_the_others_go(leaf: OnePeer) -> None:
    effects = leaf.until(leaf.now + 2.0, ("a", "b", "c"))
    kept = anchors_of(leaf)
    assert len(kept) == 2
    (other,) = {"a", "b", "c"} - set(kept)
    assert Dial(PeerId(other), ()) in effects
    connected = leaf.membership.connected
    again = connected(PeerId(other), leaf.certificate(other), b"boot", leaf.clock)
    assert Dial(PeerId(other), ()) in again, "who dialled for a job is not kept either"


def test_a_silent_anchor_is_dialled_anew_and_not_accused(leaf: OnePeer) -> None:
    silent, other = anchors_of(leaf)
    effects = leaf.until(leaf.now + 400.0, (other,))
    assert silent in hung_up(effects) and leaf.state(silent) is ALIVE
    assert not [m for m in sent(effects) if isinstance(m, Rumours)]
    roots = [m for m in sent(effects, other) if isinstance(m, SyncRoot)]
    assert roots, "whether it is gone the other knows"


def test_what_others_tell_a_leaf_it_does_not_pass_on(leaf: OnePeer) -> None:
    leaf.hears("a", leaf.advert("d"), leaf.suspicion("b", "c"))
    effects = leaf.until(leaf.now + 5.0, ("a", "b"))
    assert gossiped(effects) == []
    assert not [m for m in sent(effects) if isinstance(m, Rumours)]


def test_two_words_of_a_death_are_enough_for_a_leaf(leaf: OnePeer) -> None:
    leaf.hears("a", leaf.advert("d"))
    leaf.hears("a", leaf.suspicion("b", "d"))
    leaf.until(leaf.now + METERED.probe_timeout_s + 1.0, ("a", "b", "c"))
    assert leaf.state("d") is SUSPECT, "of one that has that peer itself broken perhaps"
    leaf.hears("a", leaf.suspicion("c", "d"))
    leaf.until(leaf.now + METERED.probe_timeout_s + 1.0, ("a", "b", "c"))
    assert leaf.state("d") is DEAD
    leaf.hears("a", leaf.advert("d", 2))
    assert leaf.state("d") is ALIVE


def test_who_lists_a_dead_peer_is_told_why_and_not_asked_for_it(me: OnePeer) -> None:
    me.connect("a", "b")
    me.gossip(me.advert("d"))
    version = me.membership.reconciler.version("d")
    assert version is not None
    evidence = me.departure("d", until_s=me.now + 30.0)
    me.gossip(evidence)
    answers = sent(me.receive("a", SyncItems(0, (), (("d", version), ("x", b"12345678")))), "a")
    assert answers == [SyncWant(0, ("x",)), Rumours((evidence,))]
    answers = sent(me.receive("a", SyncItems(0, (), (("d", version),))), "a")
    assert answers == [Rumours((evidence,))]


def test_a_leaf_that_looks_for_a_peer_is_told_that_it_is_gone(me: OnePeer) -> None:
    me.connect("a", "b")
    me.gossip(me.advert("d"), me.advert("l", keepalive_s=120))
    me.connect("l", tell=False)
    evidence = me.departure("d")
    me.gossip(evidence)
    query = PathQuery((PeerId("d"), PeerId("a")))
    report = PathReport((PeerId("a"),), (PeerId("d"),))
    assert sent(me.receive("l", query), "l") == [report, Rumours((evidence,))]
    assert sent(me.receive("b", query), "b") == [report], "it hears of that by gossip"


def test_a_leaf_is_not_asked_about_others_nor_for_paths_nor_told_what_is_gossiped() -> None:
    me = OnePeer()
    me.start()
    me.connect("a", "b", "c")
    for name in ("l1", "l2"):
        me.connect(name, tell=False)
        me.hears(name, me.advert(name, keepalive_s=120))
    changed = SelfDescribed((), {"zone": "cellar"}, 1, 1, 1)
    effects = me.membership.describe(changed, me.clock)
    assert sent(effects, "a") and not sent(effects, "l1") and not sent(effects, "l2")
    me.gossip(me.advert("e"))
    effects = me.until(me.now + 30.0, ("a", "b", "c"))
    kinds = {type(m) for name in ("l1", "l2") for m in sent(effects, name)}
    assert kinds <= {Ping}
    assert PingRequest in {type(m) for m in sent(effects)}


def test_a_leaf_is_asked_about_through_its_other_anchor_alone(me: OnePeer) -> None:
    me.connect("a")
    me.connect("l", tell=False)
    me.hears("l", me.advert("l", keepalive_s=120))
    me.gossip(me.advert("b"), me.advert("c"))
    anchors = me.membership._roster.monitors(PeerId("l"))
    asked = me.membership._choose(PeerId("l"), me.now)
    assert list(asked) == [peer for peer in anchors if peer != "me"]


def test_a_leaf_tells_others_what_one_alone_has_said(leaf: OnePeer) -> None:
    leaf.until(leaf.now + 2.0, ("a", "b", "c"))
    near, other = anchors_of(leaf)
    leaf.hears(near, leaf.advert("d"))
    leaf.hears(near, word := leaf.suspicion(near, "d"))
    effects = leaf.until(leaf.now + METERED.probe_period_s + 1.0, (near, other))
    assert Rumours((word,)) in sent(effects, other)
    assert Rumours((word,)) not in sent(effects, near)


def test_what_a_leaf_said_lately_answers_for_it(me: OnePeer) -> None:
    me.connect("a", "b")
    me.connect("l", tell=False)
    me.hears("l", me.advert("l", keepalive_s=120))
    target = PeerId("l")
    answer = Send(PeerId("a"), PingReport(1, target, True))
    assert me.receive("a", PingRequest(1, target)) == [answer]
    me.now += 61.0
    assert [type(m) for m in sent(me.receive("a", PingRequest(2, target)), "l")] == [Ping]


def test_a_far_leaf_is_asked_for_by_who_relays_to_it(me: OnePeer) -> None:
    """And not itself, by letters: each has a signature, and it would answer with as much."""
    me.connect("a")
    me.gossip(me.advert("l", keepalive_s=120))
    me.receive("a", PathReport((PeerId("l"),), ()))
    effects = me.until(me.now + 15.0, ("a",))
    while not (asked := [m for m in sent(effects, "a") if isinstance(m, PingRequest)]):
        effects = me.until(me.now + 15.0, ("a",))
    assert me.membership._roster.targets() == ["a", "l"] and asked[0].target == "l"
    assert not [m for m in sent(effects, "l") if isinstance(m, Ping)]


def test_a_leaf_keeps_the_connection_to_who_relays_to_its_anchor(leaf: OnePeer) -> None:
    far, near = anchors_of(leaf)
    (way,) = {"a", "b", "c"} - {far, near}
    leaf.until(leaf.now + 2.0, ("a", "b", "c"))
    leaf.membership.disconnected(PeerId(far), False, leaf.clock)
    leaf.receive(way, PathReport((PeerId(far),), ()))
    effects = leaf.until(leaf.now + 2.0, (near, way))
    assert way in dialled(effects)
    leaf.membership.connected(PeerId(far), leaf.certificate(far), b"boot", leaf.clock)
    effects = leaf.until(leaf.now + 2.0, ("a", "b", "c"))
    assert Dial(PeerId(way), ()) in effects, "it is reached without"

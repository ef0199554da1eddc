"""Leaves: whole shoals with devices on metered links among the others, or nothing but those."""

from __future__ import annotations

import pytest

from protocol.config import MembershipConfig
from protocol.effects import Gossip, Send
from protocol.ids import PeerId
from protocol.leaves import covered, outward
from protocol.messages import Rumours
from protocol.records import Accusation, Suspicion
from protocol.roster import Roster, State
from protocol.wire import seal
from tests.protocol.shoalnet import ShoalNet
from tests.protocol.test_roster import leaf_advert

MONTH_S = 30 * 86_400.0
METERED = MembershipConfig.preset("metered")
ME, A, B = PeerId("me"), PeerId("a"), PeerId("b")
NEWS = Rumours((b"news",))


def names(count: int) -> list[str]:
    return [f"p{index:03d}" for index in range(count)]


def fleet(count: int, leaves: int, seed: int = 1) -> ShoalNet:
    """The last ones are leaves; all are known to all, and what a start takes is over."""
    net = ShoalNet(names(count), seed, leaves=names(count)[count - leaves :])
    net.boot_all()
    net.run(200.0)
    assert net.all_alive() and not net.deaths()
    return net


def anchors(net: ShoalNet, leaf: str) -> list[PeerId]:
    return sorted(net.members[PeerId(leaf)].kept)


# ---- who is told -----------------------------------------------------------------------------


def roster(config: MembershipConfig, leaves: tuple[PeerId, ...] = ()) -> Roster:
    """A and B are connected."""
    made = Roster(ME, config)
    for peer in (A, B):
        entry = made.admit(peer, 0.0)
        assert entry is not None
        made.hold(entry, leaf_advert(peer, 120 if peer in leaves else 0), peer.encode())
        made.move(entry, State.ALIVE, 0.0)
        made.link(entry, True)
    return made


def test_a_leaf_tells_its_neighbours_what_others_gossip() -> None:
    here = roster(METERED)
    assert outward([Gossip(NEWS)], here) == [Send(A, NEWS), Send(B, NEWS)]
    assert outward([Gossip(NEWS), Send(A, NEWS)], here) == [Send(B, NEWS), Send(A, NEWS)]
    assert covered(here), "they gossip what they told us, so that it need not be passed on"


def test_who_is_connected_to_leaves_alone_gossips_and_tells_them() -> None:
    here = roster(MembershipConfig(), (A, B))
    assert outward([Gossip(NEWS)], here) == [Gossip(NEWS), Send(A, NEWS), Send(B, NEWS)]
    assert not covered(here) and not covered(roster(METERED, (A, B)))


def test_where_there_is_a_mesh_it_carries_the_news() -> None:
    assert outward([Gossip(NEWS)], roster(MembershipConfig(), (B,))) == [Gossip(NEWS)]
    assert outward([Gossip(NEWS)], roster(MembershipConfig())) == [Gossip(NEWS)]


# ---- whole shoals ----------------------------------------------------------------------------


def test_a_leaf_keeps_to_its_two_anchors_and_nobody_else_to_it() -> None:
    net = fleet(12, 4)
    leaves = names(12)[8:]
    for leaf in leaves:
        assert len(anchors(net, leaf)) == 2 and not set(anchors(net, leaf)) & set(leaves)
        keepers = sorted(m.id for m in net.members.values() if PeerId(leaf) in m.kept)
        assert keepers == anchors(net, leaf)


@pytest.mark.parametrize(("count", "leaves"), [(5, 2), (12, 4), (2, 1), (3, 2), (2, 2), (6, 6)])
def test_an_idle_leaf_stays_far_below_ten_megabytes_a_month(count: int, leaves: int) -> None:
    net = fleet(count, leaves)
    ends = [net.members[PeerId(name)] for name in names(count)[count - leaves :]]
    before = [member.sent_bytes for member in ends]
    net.run(3600.0)
    spent = [end.sent_bytes - start for end, start in zip(ends, before, strict=True)]
    assert max(spent) / 3600.0 * MONTH_S < 5e6
    assert net.all_alive() and not net.deaths()


def test_others_pay_for_a_leaf_by_its_period_not_by_theirs() -> None:
    net = fleet(5, 2)
    leaf = net.members[PeerId("p004")]
    before = leaf.sent.copy()
    net.run(1200.0)
    said = leaf.sent - before
    assert set(said) == {"Ping", "Ack", "SyncRoot"}
    assert 15 <= said["Ping"] + said["Ack"] <= 25, "one exchange with each anchor in 120 s"
    assert said["SyncRoot"] <= 12


@pytest.mark.parametrize(("count", "leaves"), [(5, 2), (12, 4), (3, 2)])
def test_the_death_of_a_leaf_is_known_to_all_in_about_six_minutes(count: int, leaves: int) -> None:
    times: list[float] = []
    for seed in range(8):
        net = fleet(count, leaves, seed)
        net.run(seed * 17.0)
        victim, start = names(count)[-1], net.now
        net.vanish(victim)
        net.run_until(lambda n=net, v=victim: n.known(v, State.DEAD), 600.0)
        assert {seen.change.peer for seen in net.deaths()} == {victim}
        times += [seen.at - start for seen in net.deaths()]
    times.sort()
    assert times[len(times) // 2] < 300.0
    assert times[-1] < 450.0


def test_a_leaf_hears_of_a_death_that_others_know_in_seconds_and_takes_another_anchor() -> None:
    net = fleet(6, 2)
    leaf = "p005"
    victim, start = anchors(net, leaf)[0], net.now
    net.vanish(victim)
    net.run_until(lambda: net.known(victim, State.DEAD), 300.0)
    first = min(seen.at for seen in net.deaths())
    assert first - start < 8.0, "those that are no leaves watch one another as ever"
    net.run(10.0)
    assert len(anchors(net, leaf)) == 2 and victim not in anchors(net, leaf)
    net.boot(victim, ["p000"] if victim != "p000" else ["p001"])
    net.run_until(net.all_alive, 300.0)


@pytest.mark.parametrize("victim", [0, -1])
def test_two_devices_find_out_about_each_other_by_themselves(victim: int) -> None:
    """A lone accuser waits three times as long."""
    net = fleet(2, 1)
    start = net.now
    net.vanish(names(2)[victim])
    net.run_until(lambda: net.known(names(2)[victim], State.DEAD), 900.0)
    assert net.now - start < 540.0


def test_nobody_is_wrongly_thought_dead_where_messages_get_lost() -> None:
    for seed in range(4):
        net = fleet(8, 3, seed)
        net.loss = 0.05
        net.run(5400.0)
        assert not net.deaths()
        net.loss = 0.0
        net.run_until(net.all_alive, 600.0)


def test_a_leaf_does_not_believe_one_neighbour_alone_whose_network_is_broken() -> None:
    """Its others, and whoever is accused, can tell it better; the end of a lone accuser's wait is
    for where there is nobody else."""
    net = fleet(8, 2)
    leaf = net.members[PeerId("p007")]
    liar, other = anchors(net, leaf.id)
    victim = next(peer for peer in net.members if peer not in (liar, other, leaf.id))
    entry = net[leaf.id].peer(victim)
    assert entry is not None
    record = Suspicion(peer=victim, incarnation=entry.incarnation, why=int(Accusation.SILENT))
    rumour = Rumours((seal(record, net.members[liar].keyring),))
    net.do(leaf, lambda: leaf.membership.receive(liar, rumour, net.clock()))
    assert net.state(leaf.id, victim) is State.SUSPECT
    net.run(600.0)
    assert not net.deaths() and net.all_alive()


def test_of_many_that_one_alone_accused_each_is_told_of_once_a_period() -> None:
    net = fleet(12, 1)
    leaf = net.members[PeerId("p011")]
    liar, other = anchors(net, leaf.id)
    victims = [peer for peer in net.members if peer not in (liar, other, leaf.id)][:6]
    for victim in victims:
        record = Suspicion(peer=victim, incarnation=2, why=int(Accusation.SILENT))
        rumour = Rumours((seal(record, net.members[liar].keyring),))
        net.do(leaf, lambda r=rumour: leaf.membership.receive(liar, r, net.clock()))
        net.run(1.0)
    before = leaf.sent.copy()
    net.run(METERED.probe_period_s + 30.0)
    assert (leaf.sent - before)["Rumours"] == len(victims)
    assert not net.deaths()


def test_what_a_leaf_alone_saw_break_it_says_at_once() -> None:
    net = fleet(4, 1)
    leaf = net.members[PeerId("p003")]
    victim, other = anchors(net, leaf.id)
    net.vanish(victim)
    for link in [link for link in net.links if victim in link]:
        del net.links[link]
    net.do(leaf, lambda: leaf.membership.disconnected(victim, True, net.clock()))
    start = net.now
    net.run_until(lambda: net.state(other, victim) is State.DEAD, 60.0)
    assert net.now - start < 2.0


def test_a_change_of_a_leaf_is_gossiped_by_its_anchors() -> None:
    net = fleet(8, 2)
    leaf = net.members[PeerId("p007")]
    before = {name: net[name].peer(leaf.id) for name in names(6)}
    numbers = {name: peer.incarnation for name, peer in before.items() if peer is not None}
    changed = net.described_as("p007", zone="cellar")
    net.do(leaf, lambda: leaf.membership.describe(changed, net.clock()))
    net.run(5.0)
    for name in names(6):
        peer = net[name].peer(leaf.id)
        assert peer is not None and peer.incarnation > numbers[name]
        assert peer.advert is not None and peer.advert.labels == {"zone": "cellar"}


def test_nothing_but_leaves_is_a_shoal_as_well() -> None:
    net = fleet(6, 6)
    for leaf in names(6):
        assert 2 <= len(anchors(net, leaf)) <= 4, "two it is watched by, two that it watches"
    net.vanish("p002")
    net.run_until(lambda: net.known("p002", State.DEAD), 450.0)
    net.boot("p002", ["p000"])
    net.run_until(net.all_alive, 300.0)


def test_a_leaf_that_comes_back_finds_the_shoal_by_what_its_disk_remembers() -> None:
    net = fleet(9, 2)
    net.vanish("p008")
    net.run_until(lambda: net.known("p008", State.DEAD), 450.0)
    net.boot("p008")
    net.run_until(net.all_alive, 300.0)
    net.run(10.0)
    assert len(anchors(net, "p008")) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_leaf_whose_anchors_vanish_together_finds_others(seed: int) -> None:
    net = fleet(8, 1, seed)
    leaf = "p007"
    gone = anchors(net, leaf)
    for anchor in gone:
        net.vanish(anchor)
        for link in [link for link in net.links if anchor in link]:
            del net.links[link]  # as TCP notices it by and by
        peer = net.members[PeerId(leaf)]
        net.do(peer, lambda a=anchor, p=peer: p.membership.disconnected(a, False, net.clock()))
    net.run_until(lambda: all(net.state(leaf, each) is State.DEAD for each in gone), 300.0)
    net.run(10.0)
    assert len(anchors(net, leaf)) == 2 and not set(anchors(net, leaf)) & set(gone)
    assert net.state("p000" if "p000" not in gone else "p001", leaf) in (State.ALIVE, State.SUSPECT)

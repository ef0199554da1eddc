"""waves: who knows the same peers gives each its own turn, so many at a time."""

from __future__ import annotations

from protocol.ids import PeerId, Revision
from protocol.records import Advert
from protocol.tree import Plain
from protocol.waves import wave_delay_s
from tests.protocol.standingbook import daemon

PEERS = [PeerId(f"p{number}") for number in range(6)]
REVISION = Revision("r" * 32)


def advert(peer: PeerId, **labels: str) -> Advert:
    return Advert(
        peer=peer,
        incarnation=1,
        addresses=(),
        labels=labels,
        engines=("process",),
        cpu_m=1000,
        memory_bytes=1 << 30,
        disk_bytes=1 << 30,
        gpus=0,
        version="1",
        name=peer,
    )


def delays(adverts: list[Advert], **update: Plain) -> list[float]:
    spec = daemon(Update={"HealthyAfter": 10, **update})
    return sorted(wave_delay_s(peer, REVISION, spec, adverts) for peer in PEERS)


def test_one_after_the_other_each_when_the_one_before_is_healthy() -> None:
    assert delays([advert(peer) for peer in PEERS]) == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]


def test_or_several_at_a_time() -> None:
    adverts = [advert(peer) for peer in PEERS]
    assert delays(adverts, MaxParallel=4) == [0.0] * 4 + [10.0] * 2


def test_the_order_is_another_for_each_revision() -> None:
    adverts = [advert(peer) for peer in PEERS]
    orders = {
        tuple(wave_delay_s(p, Revision(sign * 32), daemon(), adverts) for p in PEERS)
        for sign in "abcdef"
    }
    assert len(orders) > 1


def test_who_does_not_match_takes_nobodys_turn() -> None:
    spec = daemon(Constraints=[{"Key": "zone", "Operator": "=", "Values": ["attic"]}])
    adverts = [advert(peer, zone="attic" if peer == "p1" else "cellar") for peer in PEERS]
    assert wave_delay_s(PEERS[1], REVISION, spec, adverts) == 0.0


def test_who_is_not_asked_for_by_name_takes_nobodys_turn() -> None:
    spec = daemon(Constraints=[{"Key": "name", "Operator": "in", "Values": ["p1", "p4"]}])
    adverts = [advert(peer) for peer in PEERS]
    found = [wave_delay_s(peer, REVISION, spec, adverts) for peer in (PEERS[1], PEERS[4])]
    assert sorted(found) == [0.0, float(spec.update.healthy_after_s)]


def test_who_knows_nobody_goes_at_once() -> None:
    assert wave_delay_s(PEERS[0], REVISION, daemon(), []) == 0.0

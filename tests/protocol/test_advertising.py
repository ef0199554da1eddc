"""Advertising: each advert has an incarnation of its own, on disk before anybody hears of it."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from protocol.advertising import ADDRESSES_MAX, JUMP_MAX, LABELS_MAX, Advertiser
from protocol.clock import CLOCK_LABEL, CLOCK_UNKNOWN
from protocol.config import MembershipConfig
from protocol.effects import Save, Tell
from protocol.errors import RemoteProtocolError
from protocol.events import SelfDescribed
from protocol.ids import PeerId
from protocol.records import Advert, Departure
from protocol.rumours import RECORD_BYTES_MAX
from protocol.wire import dumps, open_sealed
from tests.protocol.fakes import FakeShoal

CONFIG = MembershipConfig()
KEYRING = FakeShoal().keyring("me")
A, B = PeerId("a"), PeerId("b")
FIRST = SelfDescribed(("/ip4/10.0.0.1/tcp/4001",), {"zone": "attic"}, 4000, 1 << 30, 1 << 33, 1)
SECOND = SelfDescribed(("/ip4/10.0.0.2/tcp/4001",), {"zone": "attic"}, 4000, 1 << 30, 1 << 33, 1)


def advertiser(incarnation: int = 4) -> Advertiser:
    return Advertiser(CONFIG, KEYRING, incarnation, "attic-pi", "1.0", True)


def saved(incarnation: int) -> Save:
    return Save((("meta", "incarnation", dumps(incarnation)),))


def told(own: Advertiser) -> Advert:
    record = open_sealed(own.data, KEYRING).record
    assert isinstance(record, Advert)
    return record


def test_the_first_advert_has_the_incarnation_of_this_life() -> None:
    own = advertiser()
    assert own.deadline == inf
    assert own.boot() == [saved(5)]
    own.describe(FIRST)
    assert own.deadline == -inf
    assert own.issue(10.0) == [], "it is on disk already"
    assert told(own) == Advert(
        peer=PeerId("me"),
        incarnation=5,
        addresses=FIRST.addresses,
        labels={"zone": "attic"},
        engines=("process",),
        cpu_m=4000,
        memory_bytes=1 << 30,
        disk_bytes=1 << 33,
        gpus=1,
        version="1.0",
        name="attic-pi",
    )
    assert own.deadline == inf


def test_a_change_is_told_at_once_and_raises_the_incarnation() -> None:
    own = advertiser()
    own.boot()
    own.describe(FIRST)
    own.issue(10.0)
    own.describe(FIRST)
    assert own.deadline == inf, "no news"
    own.describe(SECOND)
    assert own.deadline <= 10.0
    assert own.issue(10.5) == [saved(6)]
    assert told(own).addresses == SECOND.addresses and told(own).incarnation == 6
    assert own.deadline == inf
    own.describe(replace(SECOND, draining=True))
    own.issue(11.0)
    assert told(own).draining


def test_what_flaps_is_told_three_times_and_then_once_a_period() -> None:
    own = advertiser()
    own.boot()
    own.describe(FIRST)
    own.issue(0.0)
    issued: list[float] = []
    now = 0.0
    while now < 10 * CONFIG.advert_period_s:
        own.describe(SECOND if own.described == FIRST else FIRST)
        if own.deadline <= now:
            own.issue(now)
            issued.append(now)
        now += 1.0
    assert CONFIG.advert_burst == 3
    assert issued == [0.0, 1.0, 2.0] + [CONFIG.advert_period_s * n for n in range(1, 10)]


def test_who_was_quiet_for_a_while_may_change_three_times_again() -> None:
    own = advertiser()
    own.boot()
    own.describe(FIRST)
    own.issue(0.0)
    quiet = 3 * CONFIG.advert_period_s + 2.0
    for now in (0.0, 1.0, 2.0, quiet, quiet + 1.0, quiet + 2.0):
        own.describe(SECOND if own.described == FIRST else FIRST)
        assert own.deadline <= now
        own.issue(now)
    own.describe(SECOND if own.described == FIRST else FIRST)
    assert own.deadline == quiet + CONFIG.advert_period_s


def test_a_refutation_goes_above_what_is_said() -> None:
    own = advertiser()
    own.boot()
    own.describe(FIRST)
    own.issue(10.0)
    assert not own.accused(4, A), "of an earlier incarnation"
    assert own.accused(5, A) and own.accused(9, B) and own.accused(7, A)
    assert own.accusers == (A, B)
    assert 10.0 < own.deadline < 12.0, "not at once after the last advert"
    assert own.issue(12.0) == [saved(10)]
    assert told(own).incarnation == 10
    assert own.accusers == () and own.deadline == inf


def test_a_refutation_before_the_first_description_is_part_of_it() -> None:
    own = advertiser()
    own.boot()
    own.accused(7, A)
    assert own.issue(10.0) == [saved(8)]
    assert own.data == b""
    own.describe(FIRST)
    assert own.deadline == -inf
    own.issue(10.1)
    assert told(own).incarnation == 8


def test_nobody_can_send_the_incarnation_to_the_moon() -> None:
    own = advertiser()
    own.boot()
    assert own.accused(5 + JUMP_MAX, A)
    with pytest.raises(RemoteProtocolError):
        own.accused(6 + JUMP_MAX, A)


def test_what_another_life_signed_is_outdone() -> None:
    own = advertiser(0)
    own.boot()
    own.describe(FIRST)
    own.issue(10.0)
    own.echoed(0, A)
    assert own.above == -1
    own.echoed(3 * JUMP_MAX, None)
    assert own.issue(12.0) == [saved(3 * JUMP_MAX + 1)], "our own signature is believed"


def test_labels_and_addresses_are_cut_to_what_others_take() -> None:
    own = advertiser()
    own.boot()
    many = {f"label-{index:03d}": "x" for index in range(LABELS_MAX + 2)} | {"long": "x" * 257}
    addresses = ("", "/" + "x" * 256, *(f"/ip4/10.0.0.{n}/tcp/1" for n in range(30)))
    own.describe(SelfDescribed(addresses, many, 1, 1, 1))
    effects = own.issue(10.0)
    assert len(told(own).labels) == LABELS_MAX and len(told(own).addresses) == ADDRESSES_MAX
    assert [type(effect) for effect in effects] == [Tell]
    assert isinstance(effects[0], Tell) and effects[0].fields == {"missing": 3}


def test_labels_that_would_burst_the_advert_are_left_out() -> None:
    own = advertiser()
    own.boot()
    heavy = {f"{index:02d}{'ü' * 200}": "ü" * 256 for index in range(LABELS_MAX)}
    own.describe(SelfDescribed((), heavy, 1, 1, 1))
    effects = own.issue(10.0)
    assert told(own).labels == {} and len(own.data) <= RECORD_BYTES_MAX
    assert isinstance(effects[0], Tell) and effects[0].fields == {"missing": LABELS_MAX}


@pytest.mark.parametrize("value", ["x", "ü" * 256])
def test_that_the_time_is_not_known_is_told_whatever_else_is_cut(value: str) -> None:
    own = advertiser()
    own.boot()
    many = {f"{index:03d}{'a' * 200}": value for index in range(LABELS_MAX)}
    own.describe(SelfDescribed((), many | {CLOCK_LABEL: CLOCK_UNKNOWN}, 1, 1, 1))
    own.issue(10.0)
    assert told(own).labels[CLOCK_LABEL] == CLOCK_UNKNOWN


def test_a_departure_says_until_when() -> None:
    own = advertiser()
    own.boot()
    record = open_sealed(own.departure(99_000), KEYRING).record
    assert record == Departure(peer=PeerId("me"), incarnation=5, until_ms=99_000)
    assert own.accusers == ()

"""config: the presets are the design's, and the numbers fit together."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.config import (
    KEEPALIVE_MAX_S,
    AuctionConfig,
    CoordinationConfig,
    MembershipConfig,
    NodeConfig,
    PolicyConfig,
)

PRESETS = ("lan", "wan", "metered")


@pytest.mark.parametrize(
    ("name", "period_s", "monitors", "suspicion_s"),
    [("lan", 2, 5, 4), ("wan", 10, 5, 20), ("metered", 120, 2, 120)],
)
def test_the_presets_are_the_designs(
    name: str, period_s: float, monitors: int, suspicion_s: float
) -> None:
    config = MembershipConfig.preset(name)
    assert (config.probe_period_s, config.monitors, config.suspicion_s) == (
        period_s,
        monitors,
        suspicion_s,
    )


def test_lan_is_the_default_and_no_other_preset_exists() -> None:
    assert MembershipConfig.preset("lan") == MembershipConfig() == NodeConfig().membership
    with pytest.raises(KeyError):
        MembershipConfig.preset("moon")


@pytest.mark.parametrize("name", PRESETS)
def test_a_probe_and_its_detour_fit_in_a_period(name: str) -> None:
    """Else the next probe begins before the last one has failed."""
    config = MembershipConfig.preset(name)
    assert 2 * config.probe_timeout_s < config.probe_period_s


@pytest.mark.parametrize("name", PRESETS)
def test_who_is_suspected_has_a_probe_period_to_refute(name: str) -> None:
    config = MembershipConfig.preset(name)
    assert config.suspicion_s >= config.probe_period_s


def test_a_lease_outlives_two_lost_renewals() -> None:
    config = CoordinationConfig()
    assert config.lease_s >= 3 * config.renew_s


@pytest.mark.parametrize("name", ["lan"])
def test_a_lease_outlives_the_time_to_know_a_death(name: str) -> None:
    membership = MembershipConfig.preset(name)
    known_s = membership.probe_period_s + 2 * membership.probe_timeout_s + membership.suspicion_s
    assert CoordinationConfig().lease_s > known_s


def test_a_bid_is_held_until_it_can_be_awarded() -> None:
    """The window, and then two awards that nobody answers."""
    config = AuctionConfig()
    assert config.hold_ms / 1000 >= config.window_s + 2 * config.accept_s


def test_backoff_grows() -> None:
    config = CoordinationConfig()
    assert config.resend_first_s < config.resend_max_s
    assert config.requeue_first_s < config.requeue_max_s


@pytest.mark.parametrize(
    "kind", [MembershipConfig, AuctionConfig, CoordinationConfig, PolicyConfig, NodeConfig]
)
def test_a_configuration_does_not_change(kind: type) -> None:
    config = kind()
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, None)


def test_the_metered_preset_is_the_leafs() -> None:
    kinds = {name: MembershipConfig.preset(name).leaf for name in PRESETS}
    assert kinds == {"lan": False, "wan": False, "metered": True}
    assert MembershipConfig.preset("metered").keepalive_s == 120
    assert MembershipConfig.preset("wan").keepalive_s == 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_leaf_is_watched_no_oftener_than_it_asks_for(name: str) -> None:
    config = MembershipConfig.preset(name)
    assert config.towards(0) is config
    slowed = config.towards(120)
    assert (slowed.probe_period_s, slowed.probe_timeout_s, slowed.suspicion_s) == (120, 10, 120)
    assert slowed is config.towards(120)
    assert config.towards(1).probe_period_s == max(1, config.probe_period_s)


def test_no_leaf_can_ask_never_to_be_looked_at() -> None:
    assert MembershipConfig().towards(2**62).probe_period_s == KEEPALIVE_MAX_S


def test_what_a_leaf_is_told_by_several_it_believes_after_a_probes_time() -> None:
    own = MembershipConfig.preset("metered")
    told = own.as_told()
    assert (told.suspicion_s, told.accusers) == (told.probe_timeout_s, own.accusers)
    assert told.suspicion_s * told.lone_factor == own.suspicion_s * own.lone_factor

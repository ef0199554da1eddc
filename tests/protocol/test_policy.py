"""policy: what the owner of a device never takes, and when the device takes nothing for now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.clock import Now
from protocol.config import PolicyConfig
from protocol.ids import PeerId
from protocol.messages import Facts
from protocol.policy import (
    HOURS_ALLOWED,
    Asked,
    minute_here,
    misfit,
    read_hours,
    unwell,
    within,
)

ASKED = Asked(
    "batch",
    "process",
    "default",
    PeerId("12D3-author"),
    "attic",
    ("submit",),
    60,
    ("network bridge",),
)
NIGHT = "22:00-06:00"


def minute(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


# ---- never here -------------------------------------------------------------------------------


def test_the_default_policy_takes_what_members_submit() -> None:
    assert misfit(PolicyConfig(), ASKED) == ""
    assert unwell(PolicyConfig(), Facts(), -1) == ""


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (
            PolicyConfig(types=("service", "daemon")),
            'policy: batch jobs are not taken here ([accept] types = ["service", "daemon"])',
        ),
        (
            PolicyConfig(engines=("docker",)),
            'policy: engine process is not taken here ([accept] engines = ["docker"])',
        ),
        (
            PolicyConfig(namespaces=()),
            "policy: namespace default is not taken here ([accept] namespaces = [])",
        ),
        (
            PolicyConfig(authors=("kitchen", "12D3-other")),
            "policy: jobs of attic are not taken here ([accept] authors)",
        ),
        (
            PolicyConfig(roles=("operate",)),
            'policy: its author holds no role that is taken here ([accept] roles = ["operate"])',
        ),
        (
            PolicyConfig(job_timeout_max_s=59),
            "policy: a timeout of 1m is over 59s ([accept] job_timeout_max_s = 59)",
        ),
        (
            PolicyConfig(networks=("none",)),
            'policy: network bridge is not allowed here ([accept] networks = ["none"])',
        ),
    ],
)
def test_each_objection_quotes_its_line(policy: PolicyConfig, sentence: str) -> None:
    assert misfit(policy, ASKED) == sentence


@pytest.mark.parametrize(
    "policy",
    [
        PolicyConfig(types=("ops", "batch")),
        PolicyConfig(engines=("process",)),
        PolicyConfig(namespaces=("lab", "default")),
        PolicyConfig(authors=("attic",)),
        PolicyConfig(authors=("kitchen", "12D3-author")),
        PolicyConfig(roles=("operate", "submit")),
        PolicyConfig(roles=()),
        PolicyConfig(job_timeout_max_s=60),
    ],
)
def test_what_is_listed_is_taken(policy: PolicyConfig) -> None:
    assert misfit(policy, ASKED) == ""


def test_an_older_coordinator_that_names_no_type_is_not_held_against_the_job() -> None:
    assert misfit(PolicyConfig(types=("ops",)), replace(ASKED, type="")) == ""


def test_an_author_that_is_not_known_here_has_neither_name_nor_role() -> None:
    """The role is looked at again in the signed job; a name that nobody vouches for is none."""
    stranger = replace(ASKED, name="", roles=None)
    assert misfit(PolicyConfig(roles=("operate",)), stranger) == ""
    assert "jobs of 3-author are not" in misfit(PolicyConfig(authors=("attic", "")), stranger)
    assert misfit(PolicyConfig(authors=("12D3-author",)), stranger) == ""


# ---- not now ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "facts", "sentence"),
    [
        (
            PolicyConfig(temperature_max_c=70),
            Facts(temperature_mc=70_001),
            "policy: 70 C is too hot ([accept] temperature_max_c = 70)",
        ),
        (
            PolicyConfig(mains_only=True),
            Facts(mains=0, battery_percent=100),
            "policy: it is on battery ([accept] mains_only = true)",
        ),
        (
            PolicyConfig(),
            Facts(mains=0, battery_percent=19),
            "policy: battery at 19 % ([accept] battery_min_percent = 20)",
        ),
    ],
)
def test_a_device_that_is_unwell_says_what_it_lacks(
    policy: PolicyConfig, facts: Facts, sentence: str
) -> None:
    assert unwell(policy, facts, 0) == sentence


def test_power_and_heat_that_nobody_knows_bar_nothing() -> None:
    policy = PolicyConfig(mains_only=True, temperature_max_c=0, battery_min_percent=100)
    assert unwell(policy, Facts(), 0) == ""
    assert unwell(policy, Facts(mains=1, battery_percent=1), 0) == ""


@pytest.mark.parametrize(
    ("clock", "taken"), [("22:00", True), ("23:59", True), ("0:00", True), ("5:59", True),
                         ("6:00", False), ("21:59", False)],
)  # fmt: skip
def test_hours_may_reach_over_midnight(clock: str, taken: bool) -> None:
    said = unwell(PolicyConfig(hours=(NIGHT,)), Facts(), minute(clock))
    assert (said == "") is taken
    shown = clock.rjust(5, "0")
    assert taken or said == f'policy: it is {shown} here ([accept] hours = ["22:00-06:00"])'


def test_one_of_several_hours_is_enough() -> None:
    policy = PolicyConfig(hours=("12:00-13:00", NIGHT))
    assert unwell(policy, Facts(), minute("12:30")) == ""
    assert unwell(policy, Facts(), minute("13:00")).endswith('"12:00-13:00", "22:00-06:00"])')


@pytest.mark.parametrize("hours", [NIGHT, "00:00-24:00"])
def test_who_does_not_know_the_time_takes_nothing_and_says_so(hours: str) -> None:
    said = unwell(PolicyConfig(hours=(hours,)), Facts(), -1)
    assert said.startswith("policy: this device does not know the time yet ([accept] hours")


def test_the_minute_is_that_of_the_place_and_of_a_clock_that_can_be_trusted() -> None:
    noon = Now(0.0, 43_200.0)
    assert minute_here(noon, 0) == minute("12:00")
    assert minute_here(noon, 2 * 3600) == minute("14:00")
    assert minute_here(noon, -13 * 3600) == minute("23:00")
    assert minute_here(Now(0.0, 43_200.0, wall_trusted=False), 0) == -1


def test_hours_are_read_as_people_write_them() -> None:
    assert read_hours("22:00-06:00") == (minute("22:00"), minute("6:00"))
    assert read_hours(" 8:30 - 24:00 ") == (minute("8:30"), 24 * 60)
    assert within("08:30-24:00", minute("23:59")) and not within("08:30-24:00", minute("8:29"))


@pytest.mark.parametrize(
    "text", ["", "night", "22-6", "24:00-06:00", "22:60-06:00", "22:00-06:60", "22:00-24:01",
             "22:00-06:00,", "-1:00-02:00"],
)  # fmt: skip
def test_other_hours_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=HOURS_ALLOWED):
        read_hours(text)


def test_the_whole_day_is_no_hours_at_all() -> None:
    with pytest.raises(ValueError, match="for the whole day leave it out"):
        read_hours("06:00-06:00")

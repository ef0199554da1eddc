"""Reporting: one device tells of what is everybody's, and all know which."""

from __future__ import annotations

from protocol.config import NodeConfig, ReportingConfig
from protocol.events import BrokerChanged
from protocol.ids import PeerId
from protocol.reporting import (
    INTRODUCES_LABEL,
    REPORTS_LABEL,
    reporting_labels,
    teller,
    tellers,
    tells,
)
from tests.protocol.nodenet import NodeNet


def test_labels_say_which_brokers_are_told_what() -> None:
    labels = reporting_labels(["home", "hall"], ["home"])
    assert labels == {REPORTS_LABEL: "hall,home", INTRODUCES_LABEL: "home"}
    assert tells(labels, REPORTS_LABEL, "hall") and not tells(labels, INTRODUCES_LABEL, "hall")
    assert not tells(labels, REPORTS_LABEL, "ha")
    assert reporting_labels([], []) == {}


def test_more_names_than_a_label_has_room_for_are_left_out() -> None:
    names = [f"{at}{'x' * 31}" for at in range(8)]
    (value,) = reporting_labels(names, []).values()
    assert len(value) <= 256 and value.split(",") == names[:7]


def test_who_does_not_reach_the_broker_tells_it_nothing_unless_none_does() -> None:
    told = NodeConfig(reporting=ReportingConfig(reports=("home",)))
    net = NodeNet("a", "b", configs=dict.fromkeys("ab", told), settle_s=5.0)
    first = teller(net["a"].fleet, REPORTS_LABEL, "home", "key")
    other = "b" if first == "a" else "a"
    for down, wanted in (([str(first)], other), (["a", "b"], first)):
        for name in down:
            net.handle(name, BrokerChanged("home", False))
        net.run(60.0)
        named = {teller(net[name].fleet, REPORTS_LABEL, "home", "key") for name in "ab"}
        assert named == {wanted}


def test_all_name_the_same_and_another_once_it_is_gone() -> None:
    told = NodeConfig(reporting=ReportingConfig(reports=("home",)))
    net = NodeNet("a", "b", "c", "d", configs=dict.fromkeys("abc", told), settle_s=5.0)
    assert tellers(net["d"].fleet, REPORTS_LABEL, "home") == ["a", "b", "c"]
    assert tellers(net["d"].fleet, REPORTS_LABEL, "hall") == []
    assert teller(net["d"].fleet, INTRODUCES_LABEL, "home", "key") is None
    named = {teller(net[name].fleet, REPORTS_LABEL, "home", "key") for name in "abcd"}
    (first,) = named
    assert first in ("a", "b", "c")
    net.kill(str(first))
    net.run(10.0)
    rest = [name for name in "abcd" if name != first]
    (second,) = {teller(net[name].fleet, REPORTS_LABEL, "home", "key") for name in rest}
    assert second not in (first, None, PeerId("d"))

"""Publishers: what is read, what is refused and how, and the topics that come of it."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.job import JobSpec
from protocol.publisher import MqttPublisher, PublisherSpec
from protocol.tree import Node, Plain

VALUES = {
    "root": "shoal/home", "job": "j", "slot": "0", "peer": "p", "name": "n", "execution": "e",
    "namespace": "default",
}  # fmt: skip


def read(**params: Plain) -> MqttPublisher:
    spec = PublisherSpec.read(Node({"type": "MQTT", "params": {"Broker": "home", **params}}, "P"))
    assert spec.mqtt is not None
    return spec.mqtt


def test_left_out_it_is_local_and_so_in_canonical_form() -> None:
    for tree in ({}, {"Type": ""}, {"Type": "Local", "Params": {}}):
        assert PublisherSpec.read(Node(tree)) == PublisherSpec()
    assert PublisherSpec().to_plain() == {"Type": "local"}


def test_a_result_goes_to_the_shoals_own_topic_and_is_retained_there() -> None:
    publisher = read()
    assert (publisher.qos, publisher.retain, publisher.format) == (1, True, "json")
    assert publisher.own_topic and publisher.topic_for(VALUES) == "shoal/home/job/j/result/0"


def test_lines_are_raw_and_go_to_the_log_topic() -> None:
    publisher = read(Lines=True)
    assert (publisher.retain, publisher.format, publisher.own_topic) == (False, "raw", False)
    assert publisher.topic_for(VALUES) == "shoal/home/job/j/log/p"
    assert publisher.qos == 0, "for whoever looks just now"
    assert read(Lines=True, QoS=1).qos == read(Lines=True, Topic="a").qos == 1


def test_a_topic_of_ones_own_is_filled_and_not_retained() -> None:
    publisher = read(Topic="lab/{Name}/{slot}/{execution}/x", Format="CBOR", QoS=0)
    assert (publisher.retain, publisher.format, publisher.own_topic) == (False, "cbor", False)
    assert publisher.topic_for(VALUES) == "lab/n/0/e/x"


@pytest.mark.parametrize("params", [{}, {"Lines": True}, {"Topic": "a/{job}", "Retain": True}])
def test_the_canonical_form_reads_as_the_same(params: dict[str, Plain]) -> None:
    spec = PublisherSpec("mqtt", read(**params))
    assert PublisherSpec.read(Node(spec.to_plain())) == spec


@pytest.mark.parametrize(
    ("params", "place", "text"),
    [
        ({"Broker": None}, "P.params", "Broker"),
        ({"Broker": "a b"}, "P.params.Broker", "the name of a broker"),
        ({"QoS": 2}, "P.params.QoS", "allowed: 0 to 1"),
        ({"Topic": "a/+"}, "P.params.Topic", "without +, # and $"),
        ({"Topic": "a\x07b"}, "P.params.Topic", "cannot be printed"),
        ({"Topic": "a\ud800"}, "P.params.Topic", ""),
        ({"Topic": "$SYS/x"}, "P.params.Topic", "without +, # and $"),
        ({"Topic": "a/{jbo}"}, "P.params.Topic", "{jbo} stands for nothing; allowed: {root}"),
        ({"Format": "xml"}, "P.params.Format", "allowed: json, cbor, raw"),
        ({"Lines": "yes"}, "P.params.Lines", "not a boolean"),
        ({"Topics": "a"}, "P.params.Topics", "did you mean 'Topic'?"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(
    params: dict[str, Plain], place: str, text: str
) -> None:
    with pytest.raises(JobSpecError) as refused:
        read(**params)
    assert str(refused.value).startswith(place) and text in str(refused.value)


def test_a_daemon_has_lines_and_no_result() -> None:
    def daemon(**params: Plain) -> JobSpec:
        publisher: Plain = {"Type": "mqtt", "Params": {"Broker": "home", **params}}
        engine: Plain = {"Type": "process", "Params": {"Command": ["true"]}}
        task: Plain = {"Engine": engine, "Publisher": publisher}
        return JobSpec.from_plain({"Name": "d", "Type": "daemon", "Tasks": [task]})

    assert daemon(Lines=True).task.publisher.mqtt is not None
    with pytest.raises(JobSpecError, match="write Lines: true"):
        daemon()

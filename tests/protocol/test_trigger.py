"""Triggers: their words, what is wrong with others, and what a run knows of its message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import JobSpecError
from protocol.job import JobSpec
from protocol.records import Heard
from protocol.sources import InlineSource
from protocol.tree import Plain
from protocol.trigger import (
    BYTES_MAX,
    KEY_CHARS_MAX,
    Input,
    MqttTrigger,
    Trigger,
    key_of,
    matches,
)

TOPIC = "home/+/motion"
MESSAGE = Heard("home/porch/motion", b'{"state": "ON"}')
ENGINE: Plain = {"Type": "process", "Params": {"Command": ["look", "${camera}"]}}


def mqtt(**fields: Plain) -> dict[str, Plain]:
    return {"Broker": "home", "Topic": TOPIC, **fields}


def triggered(trigger: Plain = None, **fields: Plain) -> JobSpec:
    """A template with a trigger; `fields` are the job's."""
    tree: dict[str, Plain] = {
        "Name": "look",
        "Type": "batch",
        "Parameters": [{"Name": "camera", "Default": "porch"}],
        "Trigger": trigger if trigger is not None else {"Mqtt": mqtt()},
        "Tasks": [{"Engine": ENGINE}],
    }
    return JobSpec.from_plain({**tree, **fields})


def trigger_of(**fields: Plain) -> MqttTrigger:
    read = triggered({"Mqtt": mqtt(**fields)}).trigger
    assert read is not None
    return read.mqtt


def run(message: Heard = MESSAGE, key: str = "k", **fields: Plain) -> JobSpec:
    return triggered({"Mqtt": mqtt(**fields)}).filled_by(message, key)


def test_broker_and_topic_are_enough() -> None:
    spec = triggered()
    assert spec.trigger == Trigger(mqtt=MqttTrigger(broker="home", topic=TOPIC))
    assert spec.trigger.mqtt.qos == 1 and spec.trigger.mqtt.input is Input.FILE
    assert not spec.trigger.mqtt.retained and spec.trigger.mqtt.bytes_max == 16384
    assert spec.standing


def test_all_of_its_words() -> None:
    words = mqtt(
        QoS=0,
        When="state == 'ON'",
        Input="STDIN",
        Debounce="10s",
        MaxPerMinute=6,
        Dedup={"Key": "id"},
        Retained=True,
        BytesMax="1Ki",
        Answers="replies/+",
    )
    spec = triggered({"mqtt": words, "prefer": {"nearTrigger": True}})
    assert spec.trigger == Trigger(
        mqtt=MqttTrigger(
            broker="home",
            topic=TOPIC,
            qos=0,
            when="state == 'ON'",
            input=Input.STDIN,
            debounce_s=10,
            per_minute=6,
            keyed=True,
            key="id",
            retained=True,
            bytes_max=1024,
            answers="replies/+",
        ),
        near=True,
    )
    assert JobSpec.from_plain(spec.to_plain()) == spec


def test_messages_may_bring_their_ids_themselves() -> None:
    assert trigger_of(Dedup={}).keyed and not trigger_of().keyed
    spec = triggered({"Mqtt": mqtt(Dedup={})})
    assert JobSpec.from_plain(spec.to_plain()) == spec


def test_a_template_without_blanks_needs_no_parameters() -> None:
    spec = triggered(Parameters=None, Tasks=[{"Engine": {**ENGINE, "Params": {"Command": "x"}}}])
    assert spec.parameters == () and spec.standing
    assert JobSpec.decode(spec.encode()) == spec


@pytest.mark.parametrize("topic", ["a", "+", "#", "a/+/b", "a/#", "/", "a//b", "$SYS/#", "ü/+"])
def test_topic_filters(topic: str) -> None:
    assert trigger_of(Topic=topic).topic == topic


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"Topic": ""}, "Topic", "is no topic"),
        ({"Topic": "a/b+"}, "Topic", r"\+ stands for a whole level"),
        ({"Topic": "a/#/b"}, "Topic", "# is a level of its own, and the last"),
        ({"Topic": "a#"}, "Topic", "# is a level of its own"),
        ({"Topic": "a\nb"}, "Topic", "is no topic"),
        ({"Topic": "x" * 1025}, "Topic", "1025 bytes"),
        ({"Topic": "$share/g/a"}, "Topic", "not needed"),
        ({"Broker": "a b"}, "Broker", "the name of a broker"),
        ({"QoS": 2}, "QoS", "allowed: 0 to 1"),
        ({"When": " "}, "When", "is empty; allowed: a JMESPath expression"),
        ({"Dedup": {"Key": ""}}, "Dedup.Key", "is empty"),
        ({"Input": "argv"}, "Input", "allowed: file, stdin, env"),
        ({"MaxPerMinute": 0}, "MaxPerMinute", "allowed: 1 to 6000"),
        ({"BytesMax": "33Ki"}, "BytesMax", "allowed: 1 to 32Ki"),
        ({"Answers": "a/#/b"}, "Answers", "the last"),
        ({"Retained": "yes"}, "Retained", "not a boolean"),
        ({"Debounce": "2d"}, "Debounce", "out of range"),
        ({"Toppic": "a"}, "Toppic", "did you mean"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Plain], path: str, says: str) -> None:
    with pytest.raises(JobSpecError, match=says) as caught:
        trigger_of(**fields)
    assert caught.value.path == f"Trigger.Mqtt.{path}"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"Type": "ops"}, "only a batch job is a template"),
        ({"Parameters": [{"Name": "camera"}]}, "parameter camera needs a Default"),
        ({"Schedule": {"Cron": "* * * * *"}}, "a template has none"),
        ({"Fired": {"Topic": "a", "Key": "k", "Input": "file"}}, "is set by the agent"),
        ({"Trigger": {"Kafka": {}}}, "unknown key"),
    ],
)
def test_what_a_trigger_does_not_go_with(fields: dict[str, Plain], says: str) -> None:
    with pytest.raises(JobSpecError, match=says):
        triggered(**fields)


def test_room_is_kept_for_the_longest_message() -> None:
    """It is refused when it is kept, and not when the message comes."""
    long = ["x" * 16000, "x" * 6000]
    task: Plain = {"Engine": {"Type": "process", "Params": {"Command": [*long]}}}
    assert triggered(Tasks=[task])
    with pytest.raises(JobSpecError, match="Trigger: a run with the longest message it takes: "):
        triggered({"Mqtt": mqtt(BytesMax=BYTES_MAX)}, Tasks=[task])


def test_nothing_else_is_where_the_message_comes() -> None:
    source: Plain = {
        "Source": {"Type": "inline", "Params": {"URL": "data:,x"}},
        "Target": "message",
    }
    with pytest.raises(JobSpecError, match="the target 'message' is taken"):
        triggered(Tasks=[{"Engine": ENGINE, "InputSources": [source]}])
    assert triggered(
        {"Mqtt": mqtt(Input="env")}, Tasks=[{"Engine": ENGINE, "InputSources": [source]}]
    )


def test_a_container_takes_no_standard_input() -> None:
    engine: Plain = {"Type": "docker", "Params": {"Image": "busybox"}}
    with pytest.raises(JobSpecError, match="a container is given no standard input here"):
        triggered({"Mqtt": mqtt(Input="stdin")}, Tasks=[{"Engine": engine}])
    assert triggered({"Mqtt": mqtt(Input="file")}, Tasks=[{"Engine": engine}])


# ---- a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"\0\xff", b"x" * 16384])
@pytest.mark.parametrize("how", ["file", "stdin"])
def test_whatever_a_message_holds_it_is_a_file(how: str, payload: bytes) -> None:
    task = run(Heard("t", payload), Input=how).task
    (source,) = task.input_sources
    assert isinstance(source.source, InlineSource)
    assert source.target == "message" and source.source.content() == payload
    assert task.stdin == ("message" if how == "stdin" else "")


def test_what_the_task_sees_of_it() -> None:
    fired = run(key="k1").fired
    assert fired is not None
    assert fired.environment == {
        "SHOAL_TRIGGER_TOPIC": "home/porch/motion",
        "SHOAL_TRIGGER_ID": "k1",
        "SHOAL_TRIGGER_FILE": "message",
    }


def test_a_variable_holds_it_as_it_is() -> None:
    spec = run(Heard("t", "grüß\n".encode()), Input="env")
    assert spec.fired is not None and spec.task.input_sources == ()
    assert spec.fired.environment["SHOAL_TRIGGER_PAYLOAD"] == "grüß\n"
    assert JobSpec.decode(spec.encode()) == spec


@pytest.mark.parametrize(("payload", "says"), [(b"\xff", "no text in UTF-8"), (b"a\0", "a NUL")])
def test_what_a_variable_cannot_hold_is_no_run(payload: bytes, says: str) -> None:
    with pytest.raises(JobSpecError, match=says):
        run(Heard("t", payload), Input="env")


def test_a_run_is_the_templates_job_with_its_defaults_for_one_time() -> None:
    spec = run()
    assert spec.task.engine.process.command == ("look", "porch")
    assert not spec.standing and spec.trigger is None and spec.parameters is None


def test_a_payload_fills_no_blank() -> None:
    spec = run(Heard("t", b"${camera}"), Input="env")
    assert spec.fired is not None and spec.fired.payload == "${camera}"


# ---- keys and topics ---------------------------------------------------------------------------


def test_a_short_key_is_kept_and_another_is_hashed() -> None:
    assert key_of("door-17") == key_of(b"door-17") == "door-17"
    long = key_of("x" * (KEY_CHARS_MAX + 1))
    assert len(long) == len("sha256:") + 64
    assert key_of(b"\xff").startswith("sha256:") and key_of("").startswith("sha256:")
    assert key_of("sha256:x") != "sha256:x"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_different_names_have_different_keys(one: bytes, other: bytes) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)
    assert 1 <= len(key_of(one)) <= KEY_CHARS_MAX


@pytest.mark.parametrize(
    ("wanted", "topic", "found"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+/c", "a//c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("+", "/a", False),
        ("+/+", "/a", True),
    ],
)
def test_topics_of_a_filter(wanted: str, topic: str, found: bool) -> None:
    assert matches(wanted, topic) is found


# ---- round and round ----------------------------------------------------------------------------


def publishing(topic: str, filter: str, broker: str = "home") -> JobSpec:
    publisher: Plain = {"Type": "mqtt", "Params": {"Broker": broker, "Topic": topic}}
    task: Plain = {"Engine": ENGINE, "Publisher": publisher}
    return triggered({"Mqtt": mqtt(Topic=filter)}, Tasks=[task])


@pytest.mark.parametrize(
    ("topic", "filter"),
    [
        ("home/look", "home/#"),
        ("home/{Name}", "home/look"),
        ("home/{name}/{slot}", "home/+/+"),
        ("{peer}", "#"),
    ],
)
def test_a_template_does_not_run_itself_by_its_results(topic: str, filter: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        publishing(topic, filter)
    assert caught.value.path == "Tasks[0].Publisher.Params.Topic"
    assert f"are among those of {filter}, which run it again" in caught.value.message


@pytest.mark.parametrize(
    ("topic", "filter", "broker"),
    [
        ("alarms/{name}", "home/#", "home"),
        ("home/look", "home/+/motion", "home"),
        ("home/{slot}", "home/motion", "home"),
        ("home/look", "home/#", "hall"),
        ("", "#", "home"),
        ("{root}/job/{job}/result/{slot}", "#", "home"),
    ],
)
def test_what_goes_elsewhere_is_its_own_business(topic: str, filter: str, broker: str) -> None:
    """The shoal's own topics run nothing, see agent.mqtt.triggering."""
    assert publishing(topic, filter, broker).trigger is not None

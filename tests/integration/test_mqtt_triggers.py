"""Templates that messages run, on real agents at a real Mosquitto: one job each, whoever hears."""

from __future__ import annotations

import contextlib
import os
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.lab import Device, Lab, LabError
from tests.mosquitto import Mosquitto, free_port
from tests.mqttlistener import Holding

KILLS: Final = int(os.environ.get("SHOAL_TEST_KILLS", "12"))  # 100 took 18 minutes
ROUND_S: Final = 60  # of one kill at most, on a machine that others use too


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="module")
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    """All three have the broker; the last one's owner lets MQTT run nothing."""
    lab = Lab(3)
    for device in lab.devices:
        device.environment["SHOAL_MQTT_BROKERS"] = f"home={mosquitto.url}"
    for device in lab.devices[:2]:
        device.environment["SHOAL_MQTT_ALLOW"] = "template/*"
    with lab:
        yield lab


def send(
    mosquitto: Mosquitto,
    topic: str,
    payload: str,
    id: str = "",
    retain: bool = False,
    reply: str = "",
    correlation: bytes = b"",
) -> None:
    """At QoS 1, and acknowledged when it returns."""
    properties = Properties(PacketTypes.PUBLISH)
    if reply:
        properties.ResponseTopic = reply
    if correlation:
        properties.CorrelationData = correlation
    if id:
        properties.UserProperty = ("id", id)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    try:
        sent = client.publish(topic, payload, 1, retain, properties)
        sent.wait_for_publish(30)
        assert sent.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def spec_of(name: str, topic: str, script: str = "cat", **mqtt: Any) -> dict[str, Any]:
    words = {"Broker": "home", "Topic": topic, "Input": "stdin", **mqtt}
    engine = {"Type": "process", "Params": {"Command": ["sh", "-c", script]}}
    return {
        "Name": name,
        "Type": "batch",
        "Parameters": [],
        "Trigger": {"Mqtt": words},
        "Tasks": [{"Engine": engine}],
    }


def template(lab: Lab, name: str, topic: str, script: str = "cat", **mqtt: Any) -> None:
    with lab[0].client() as client:
        client.submit(spec_of(name, topic, script, **mqtt))
    least = 2 if "Dedup" in mqtt else 1  # without ids one is elected
    lab.until(lambda: hearing(lab, topic) >= least, f"{topic} is heard")


def hearing(lab: Lab, topic: str, without: Device | None = None) -> int:
    """How many devices hear it."""
    told = []
    for device in lab.devices:
        if device is without:
            continue
        with device.client() as client:
            told += [check["text"] for check in client.doctor() if check["check"] == "broker home"]
    return sum(topic in text for text in told)


def runs(lab: Lab, name: str) -> list[dict[str, Any]]:
    """All that became of a template, once each, as any device tells."""
    with lab[-1].client() as client:
        views = [client.job(view["id"]) for view in client.jobs()["jobs"] if view["name"] == name]
    return [view for view in views if view.get("source")]


def outputs(lab: Lab, name: str) -> Counter[str]:
    found = [run for run in runs(lab, name) if run["state"] == "completed"]
    return Counter(run["slots"][0]["stdout_tail"] for run in found)


def test_a_message_with_an_id_runs_once_though_two_hear_it(lab: Lab, mosquitto: Mosquitto) -> None:
    template(lab, "keyed", "in/keyed", Dedup={})
    for number in range(20):
        for _ in range(2):  # and though it comes twice
            send(mosquitto, "in/keyed", f"{number}\n", id=f"m{number}")
    wanted = Counter({f"{number}\n": 1 for number in range(20)})
    lab.until(lambda: outputs(lab, "keyed") == wanted, "each has run", 60)
    send(mosquitto, "in/keyed", "last\n", id="last")
    lab.until(lambda: outputs(lab, "keyed")["last\n"] == 1, "what came after them has run", 60)
    assert len(runs(lab, "keyed")) == 21


def test_without_an_id_equal_messages_are_two(lab: Lab, mosquitto: Mosquitto) -> None:
    template(lab, "plain", "in/plain")
    for _ in range(2):
        send(mosquitto, "in/plain", "ON\n")
    lab.until(lambda: outputs(lab, "plain") == Counter({"ON\n": 2}), "both have run", 60)


def test_what_is_not_meant_runs_nothing(lab: Lab, mosquitto: Mosquitto) -> None:
    send(mosquitto, "in/picky/a", '{"t": 30}', retain=True)
    template(lab, "picky", "in/picky/+", When="t > `25`", Dedup={"Key": "id"}, BytesMax="1Ki")
    send(mosquitto, "in/picky/b", '{"t": 20, "id": "cold"}')
    send(mosquitto, "in/picky/b", "no JSON")
    send(mosquitto, "in/picky/b", '{"t": 31}')
    send(mosquitto, "in/picky/b", " " * 2000)
    send(mosquitto, "in/picky/b", '{"t": 32, "id": "warm"}')
    wanted = Counter({'{"t": 32, "id": "warm"}': 1})
    lab.until(lambda: outputs(lab, "picky") == wanted, "the one that is meant has run", 60)
    assert len(runs(lab, "picky")) == 1


def test_what_comes_while_all_are_away_runs_when_they_are_back(
    lab: Lab, mosquitto: Mosquitto
) -> None:
    template(lab, "late", "in/late", Dedup={})
    send(mosquitto, "in/late", "before\n", id="before")
    lab.until(lambda: outputs(lab, "late")["before\n"] == 1, "it runs", 60)
    for device in lab.devices[:2]:
        lab.kill(device)
    for number in range(5):
        send(mosquitto, "in/late", f"{number}\n", id=f"late{number}")
    lab.start(*lab.devices[:2])
    wanted = Counter({"before\n": 1, **{f"{number}\n": 1 for number in range(5)}})
    lab.until(lambda: outputs(lab, "late") == wanted, "all have run, once", 90)


def test_the_other_steps_in_for_one_that_is_killed(lab: Lab, mosquitto: Mosquitto) -> None:
    template(lab, "taken-over", "in/over", Dedup={})
    for number in range(10):
        send(mosquitto, "in/over", f"{number}\n", id=f"over{number}")
        if number == 4:
            lab.kill(lab[0])
    wanted = {f"{number}\n" for number in range(10)}
    lab.until(lambda: set(outputs(lab, "taken-over")) >= wanted, "none is lost", 90)
    lab.start(lab[0])
    lab.until(lambda: len(outputs(lab, "taken-over")) == 10, "and all are told of", 60)


def test_a_device_that_does_not_reach_the_broker_is_not_who_hears_it(
    mosquitto: Mosquitto,
) -> None:
    """It has the broker by its configuration, and is the first by rank of half of the templates."""
    lab = Lab(2)
    for device in lab.devices:
        device.environment["SHOAL_MQTT_ALLOW"] = "template/*"
    urls = (f"mqtt://127.0.0.1:{free_port()}", mosquitto.url)
    for device, url in zip(lab.devices, urls, strict=True):
        device.environment["SHOAL_MQTT_BROKERS"] = f"home={url}"
    topics = [f"in/deaf/{number}" for number in range(6)]
    with lab:
        with lab[0].client() as client:
            for number, topic in enumerate(topics):
                client.submit(spec_of(f"deaf-{number}", topic))
        lab.until(lambda: all(hearing(lab, topic) for topic in topics), "all are heard", 120)
        for topic in topics:
            send(mosquitto, topic, "ON\n")
        names = [f"deaf-{number}" for number in range(6)]
        once = Counter({"ON\n": 1})
        lab.until(lambda: all(outputs(lab, name) == once for name in names), "all have run", 60)


def test_what_the_broker_retains_runs_once_over_restarts_of_all(
    lab: Lab, mosquitto: Mosquitto
) -> None:
    send(mosquitto, "in/kept", "kept\n", retain=True)
    template(lab, "kept", "in/kept", Retained=True)
    lab.until(lambda: outputs(lab, "kept")["kept\n"] == 1, "it runs", 60)
    mosquitto.stop()
    mosquitto.start()
    for device in lab.devices[:2]:  # one of them is elected, then the other
        lab.until(lambda: hearing(lab, "in/kept") >= 1, "it is heard", 60)
        lab.kill(device)
        lab.until(
            lambda device=device: hearing(lab, "in/kept", device) >= 1, "the other hears it", 90
        )
        lab.start(device)
    lab.until(lambda: hearing(lab, "in/kept") >= 1, "it is heard again", 60)
    send(mosquitto, "in/kept", "new\n")
    lab.until(lambda: outputs(lab, "kept")["new\n"] >= 1, "what comes after it has run", 60)
    assert outputs(lab, "kept")["kept\n"] == 1


def test_no_message_ends_what_hears_it(lab: Lab, mosquitto: Mosquitto) -> None:
    """Half of a surrogate pair, which no log takes, and a text that paho does not read."""
    template(lab, "sums", "in/sums", When="sum(readings) > `5`")
    for number in range(7):  # five within a minute stopped the agent
        send(mosquitto, "in/sums", f'{{"readings": "\\ud800 {number}"}}')
    send(mosquitto, "in/sums", '{"readings": [1, 9]}', id="x\ufeffy")
    wanted = Counter({'{"readings": [1, 9]}': 1})
    lab.until(lambda: outputs(lab, "sums") == wanted, "the one that is meant has run", 60)
    assert not [device for device in lab.devices if "rebuilding from disk" in device.log()]


# ---- kills ----------------------------------------------------------------------------------


def acknowledged(mosquitto: Mosquitto, device: str) -> int:
    """How many PUBACKs the broker has had of a device's triggers."""
    return mosquitto.log().count(f"Received PUBACK from shoal-{device[-12:]}-triggers")


def steady(lab: Lab, count: Callable[[], int]) -> int:
    """What it comes to once it has stayed the same for a second."""
    number, since = -1, 0.0

    def same() -> bool:
        nonlocal number, since
        if (now := count()) != number:
            number, since = now, time.monotonic()
        return time.monotonic() - since > 1.0

    lab.until(same, "it stays the same")
    return number


def heard_of(lab: Lab, name: str) -> Counter[str]:
    """How many jobs each message of a template has become, by its payload; of those that ended.
    What a task printed while its agent was away is in its log, and not in the view."""
    with lab[0].client() as client:
        views = client.jobs(limit=1000, detail=True, state="completed", name=name)["jobs"]
    runs = [view for view in views if view.get("source")]
    urls = [run["spec"]["Tasks"][0]["InputSources"][-1]["Source"]["Params"]["URL"] for run in runs]
    return Counter(b64decode(url.partition(",")[2]).decode() for url in urls)


@pytest.mark.timeout(max(900, ROUND_S * KILLS))
def test_kills_lose_no_message_and_make_no_second_job_of_one(mosquitto: Mosquitto) -> None:
    """By turns: at once; between journal and PUBACK; between PUBACK and firing (the second rank
    waits for the first, which hears nothing); all devices at once.

    Of messages without ids, which one device hears, each is one job as well.
    """
    ways = [Holding(mosquitto.port), Holding(mosquitto.port)]
    lab = Lab(2)
    for device, way in zip(lab.devices, ways, strict=True):
        device.environment["SHOAL_MQTT_BROKERS"] = f"home=mqtt://127.0.0.1:{way.port}"
    lab[0].environment["SHOAL_MQTT_ALLOW"] = "template/*"
    lab[1].environment["SHOAL_MQTT_ALLOW"] = "template/kill-keyed"
    hit: Counter[str] = Counter()
    try:
        with lab:
            template(lab, "kill-keyed", "kill/keyed", Dedup={})
            template(lab, "kill-plain", "kill/plain")
            for turn in range(KILLS):
                lab.until(lambda: hearing(lab, "kill/keyed") == 2, "both hear")
                lab.until(lambda: hearing(lab, "kill/plain") == 1, "one hears")
                hit[_one_kill(lab, mosquitto, ways, turn)] += 1
            for name, parts in (("kill-keyed", 3), ("kill-plain", 1)):
                wanted = {f"{turn}.{part}" for turn in range(KILLS) for part in range(parts)}
                with contextlib.suppress(LabError):
                    lab.until(lambda n=name, w=wanted: set(heard_of(lab, n)) >= w, "jobs", 120)
                assert wanted - set(heard_of(lab, name)) == set(), f"{name}: none is lost"
                assert heard_of(lab, name) == Counter(wanted), f"{name}: one job each"
            print(f"{KILLS} kills ({dict(hit)}): {3 * KILLS} messages with ids and {KILLS} without")
    finally:
        for way in ways:
            way.close()
    assert set(hit) == {"at once", "journal-puback", "puback-firing", "all"}


def _one_kill(lab: Lab, mosquitto: Mosquitto, ways: list[Holding], turn: int) -> str:
    kind = ("at once", "journal-puback", "puback-firing", "all")[turn % 4]
    killed = lab.devices if kind in ("all", "journal-puback") else [lab[turn // 4 % 2]]
    before = len(known(lab)), acknowledged(mosquitto, lab[1].peer)
    if kind == "journal-puback":
        for way in ways:
            way.mute()
        # Those that the kill before has brought again may have been acknowledged a moment ago.
        before = before[0], steady(lab, lambda: acknowledged(mosquitto, lab[1].peer))
    if kind == "puback-firing":
        ways[0].hold()
        killed = [lab[1]]
    for part in range(3):
        send(mosquitto, "kill/keyed", f"{turn}.{part}", id=f"kill-{turn}-{part}")
    send(mosquitto, "kill/plain", f"{turn}.0")
    if kind == "journal-puback":  # all four are jobs, and the broker does not know
        lab.until(lambda: len(known(lab)) == before[0] + 4, "they are jobs")
        assert acknowledged(mosquitto, lab[1].peer) == before[1]
    elif kind == "puback-firing":  # those that the first device would fire are none yet
        there = before[1] + 3
        lab.until(lambda: acknowledged(mosquitto, lab[1].peer) >= there, "it has them")
    for device in killed:
        lab.kill(device)
    for way in ways:
        way.let_go()
    lab.start(*killed)
    return kind


def known(lab: Lab) -> list[str]:
    """The jobs that messages of this test have become."""
    with lab[0].client() as client:
        views = client.jobs(limit=1000)["jobs"]
    return [v["id"] for v in views if v.get("source") and v["name"].startswith("kill-")]

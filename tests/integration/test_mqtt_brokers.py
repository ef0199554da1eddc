"""A real agent with two brokers and a prefix of its own: each is apart from the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, process_job
from tests.mosquitto import Mosquitto
from tests.mqttlab import outputs, send, spec_of
from tests.mqttlistener import Listener


@pytest.fixture(scope="module")
def hall() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="module")
def home() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="module")
def lab(hall: Mosquitto, home: Mosquitto) -> Iterator[Lab]:
    lab = Lab(1)
    (lab[0].data_dir / "config.toml").write_text(
        '[mqtt]\nprefix = "house/shoals"\nallow = ["template/*"]\n'
        f'[mqtt.brokers]\nhall = "{hall.url}"\nhome = "{home.url}"\n'
    )
    with lab:
        spec = spec_of("relay", "bell", Broker="hall")
        spec["Tasks"][0]["Publisher"] = {"Type": "mqtt", "Params": {"Broker": "home"}}
        with lab[0].client() as client:
            client.submit(spec)
        lab.until(lambda: "bell" in check(lab, "hall")["text"], "the bell is heard")
        lab.until(lambda: check(lab, "home")["ok"], "the other is connected to")
        yield lab


def check(lab: Lab, broker: str) -> dict[str, Any]:
    with lab[0].client() as client:
        return next(each for each in client.doctor() if each["check"] == f"broker {broker}")


def stdout(listener: Listener) -> list[str]:
    """Of the results in the shoal's own topics, once each."""
    found = [e for e in listener.heard if "/result/" in e.topic and e.payload]
    return [e.json()["stdout"] for e in {e.id: e for e in found}.values()]


def test_a_message_of_one_is_a_result_at_the_other_below_the_prefix(
    lab: Lab, hall: Mosquitto, home: Mosquitto
) -> None:
    with Listener(home.port) as at_home, Listener(hall.port) as in_hall:
        send(hall, "bell", "ring")
        at_home.until(lambda: stdout(at_home) == ["ring"], "the result at the other")
        peer = f"house/shoals/lab/peer/{lab[0].peer}"
        for listener in (at_home, in_hall):
            listener.until(lambda at=listener: at.on(f"{peer}/state"), "its state")
            assert listener.on(f"{peer}/status")[-1].payload == b"online"
            topics = {each.topic for each in listener.heard} - {"bell"}
            assert all(topic.startswith("house/shoals/lab/") for topic in topics), topics
        assert stdout(in_hall) == []


def test_while_one_is_down_the_other_goes_on_and_nothing_is_lost(
    lab: Lab, hall: Mosquitto, home: Mosquitto
) -> None:
    home.stop()
    lab.until(lambda: not check(lab, "home")["ok"], "the outage is noticed")
    for number in range(5):
        send(hall, "bell", f"{number}")
    wanted = Counter(f"{number}" for number in range(5))
    lab.until(lambda: outputs(lab, "relay") - Counter(["ring"]) == wanted, "all have run", 60)
    with Listener(hall.port, "direct/#") as in_hall:
        to_hall = {"Type": "mqtt", "Params": {"Broker": "hall", "Topic": "direct/{name}"}}
        with lab[0].client() as client:
            client.submit(process_job("echo", "hi", name="job", Task={"Publisher": to_hall}))
        in_hall.until(lambda: in_hall.on("direct/job"), "a result at the one that is there")
    assert check(lab, "hall")["ok"] and "that wait for it: 5" in check(lab, "home")["text"]
    hall.stop()
    home.start()
    with Listener(home.port) as at_home:
        at_home.until(lambda: set(wanted) <= set(stdout(at_home)), "what waited")
    hall.start()
    lab.until(lambda: check(lab, "hall")["ok"] and check(lab, "home")["ok"], "both are back")
    send(hall, "bell", "again")
    lab.until(lambda: outputs(lab, "relay")["again"] == 1, "and heard")

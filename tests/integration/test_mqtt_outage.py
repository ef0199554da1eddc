"""A broker that is away, and then comes and goes, with all kinds of work under way on real agents:
nothing is lost, each message is one job, and of each job what it says comes in order."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, Self

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.client import log_bytes
from tests.integration.test_mqtt import checks, first_of_each, publishing_job, submit, succeeded
from tests.lab import Device, Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import give_broker, heard_of, hearing, spec_of, with_broker
from tests.mqttlistener import Heard, Listener

# How long the broker is away; afterwards it comes and goes for a fifth of that. Ten minutes and two
# by scripts/test-kills.
DOWN_S: Final = float(os.environ.get("SHOAL_TEST_DOWN", "2"))
FLAPS_MIN: Final = 3
FLAP_S: Final = (0.3, 1.0, 2.0)  # up or down, by turns: before agents are connected, and after
# From one message, or job, to the next: of what ends meanwhile fewer than wait for a broker.
PACE_S: Final = max(0.25, DOWN_S / 300)
LISTED_MAX: Final = 1000
ATTEMPTS: Final = 6
# Until all are connected again: pauses grow with each connection that did not last, to 90 s.
BACK_S: Final = 240.0
WAIT_S: Final = 60.0


@pytest.fixture
def mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    with with_broker(2, mosquitto) as lab:
        yield lab


class Sensor:
    """Sends numbers with ids, and keeps each until the broker has acknowledged it."""

    def __init__(self, port: int, topic: str) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._topic = topic
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="sensor", protocol=MQTTv5)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(0.1, 0.5)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port)

    def _on_publish(self, *_: object) -> None:
        self.acknowledged += 1

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("id", f"sensor-{self.sent}")
        self._client.publish(self._topic, str(self.sent), 1, False, properties)
        self.sent += 1


class Work:
    """What is under way: messages that run a template, jobs whose results are published, jobs that
    fail and are tried again, and on each device a daemon's lines."""

    def __init__(self, lab: Lab, sensor: Sensor) -> None:
        self.jobs: dict[str, str] = {}  # by job, what it prints
        self.tries: dict[str, set[str]] = {}  # by job, the executions that have ended
        self._lab = lab
        self._sensor = sensor

    def go_on(self, seconds: float) -> None:
        """One of each, by turns and at its pace, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._sensor.send()
            self._job(len(self.jobs) % len(self._lab.devices))
            due = time.monotonic() + PACE_S
            self._lab.until(lambda due=due: time.monotonic() > due, "its pace")

    def _job(self, at: int) -> None:
        text = f"job {len(self.jobs)}"
        spec = publishing_job(f"echo {text}", "job", Topic="out/job/{job}")
        self.jobs[submit(self._lab[at], spec)] = f"{text}\n"

    def try_again(self) -> None:
        """Which executions there were is remembered of some hundred jobs: ask at once."""
        script = f"echo $SHOAL_ATTEMPT; test $SHOAL_ATTEMPT -ge {ATTEMPTS}"
        spec = publishing_job(script, "tries", Topic="out/tries/{job}")
        spec["Retry"] = {"Attempts": ATTEMPTS, "Backoff": "0s", "On": ["failure"]}
        job = submit(self._lab[0], spec)
        with self._lab[0].client() as client:
            self._lab.until(lambda: client.job(job)["state"] == "completed", "tried", WAIT_S)
            listed = client.job(job)["executions"]
        self.tries[job] = {each["id"] for each in listed if each["exit_code"] is not None}
        assert len(self.tries[job]) > 1, listed


def set_up(lab: Lab) -> None:
    """The template and the daemon."""
    spec = spec_of("count", "in/count", Dedup={})
    publisher = {"Type": "mqtt", "Params": {"Broker": "home", "Topic": "out/count/{job}"}}
    spec["Tasks"][0]["Publisher"] = publisher
    submit(lab[0], spec)
    script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"
    lines = publishing_job(script, "lines", Topic="out/lines/{peer}", Lines=True)
    del lines["Count"]
    submit(lab[0], {**lines, "Type": "daemon"})
    lab.until(lambda: hearing(lab, "in/count") == 2, "both hear")


def there(device: Device) -> bool:
    """It is connected, and has published all there was."""
    entry = checks(device)["broker home"]
    return bool(entry["ok"] is True and "results" not in entry["text"])


def numbers(listener: Listener, device: Device) -> list[int]:
    return [int(e.payload) for e in first_of_each(listener.on(f"out/lines/{device.peer}"))]


def results(listener: Listener, below: str) -> dict[str, list[Heard]]:
    """Of each job, once each and in the order in which they came first."""
    heard = [each for each in list(listener.heard) if each.topic.startswith(f"out/{below}/")]
    found: dict[str, list[Heard]] = {}
    for each in first_of_each(heard):
        assert each.json()["job"] == each.topic.rpartition("/")[2]
        found.setdefault(each.json()["job"], []).append(each)
    return found


@pytest.mark.timeout(600 + 3 * DOWN_S + BACK_S)
def test_a_broker_that_is_away_and_comes_and_goes_costs_nothing(
    lab: Lab, mosquitto: Mosquitto
) -> None:
    with (
        Listener(mosquitto.port, "out/#") as listener,
        Sensor(mosquitto.port, "in/count") as sensor,
    ):
        set_up(lab)
        work = Work(lab, sensor)
        work.go_on(1.0)
        for device in lab.devices:
            listener.until(lambda device=device: len(numbers(listener, device)) > 5, "lines")
        mosquitto.stop()
        lab.until(lambda: not any(there(device) for device in lab.devices), "it is missed", WAIT_S)
        work.try_again()
        work.go_on(DOWN_S)
        work.try_again()
        mosquitto.start()
        flaps, end = 0, time.monotonic() + DOWN_S / 5
        while flaps < FLAPS_MIN or time.monotonic() < end:
            work.go_on(FLAP_S[flaps % len(FLAP_S)])
            mosquitto.stop()
            if flaps % 5 == 0:
                work.try_again()
            work.go_on(FLAP_S[(flaps + 1) % len(FLAP_S)])
            mosquitto.start()
            flaps += 1
        lab.until(lambda: all(there(device) for device in lab.devices), "all are back", BACK_S)
        work.go_on(1.0)
        listener.until(lambda: sensor.acknowledged == sensor.sent, "its broker has all of it")
        wanted = {str(number) for number in range(sensor.sent)}

        def counted() -> set[str]:
            heard = results(listener, "count").values()
            return {e.json()["stdout"] for each in heard for e in succeeded(each)}

        listener.until(lambda: counted() >= wanted, "each message has run", BACK_S)
        listener.until(lambda: set(results(listener, "job")) == set(work.jobs), "each result")
        for job, ran in work.tries.items():
            listener.until(lambda j=job, r=ran: tried(lab, listener, j) == r, "each attempt")
        for device in lab.devices:
            had = len(numbers(listener, device))
            listener.until(lambda d=device, n=had: len(numbers(listener, d)) > n + 5, "new lines")
        lab.until(lambda: all(there(device) for device in lab.devices), "all is out", WAIT_S)

        messages = results(listener, "count").values()
        jobs = Counter(
            text for each in messages for text in {e.json()["stdout"] for e in succeeded(each)}
        )
        assert jobs == Counter(wanted), "each message is one job"
        # A list has the newest of all jobs, before their names are looked at.
        if sensor.sent + len(work.jobs) + len(work.tries) < LISTED_MAX - 10:
            for device in lab.devices:
                assert heard_of(device, "count") == Counter(wanted), "as each device knows"
        for job, heard in results(listener, "job").items():
            assert {e.json()["stdout"] for e in succeeded(heard)} == {work.jobs[job]}
        for device in lab.devices:
            found = numbers(listener, device)
            assert found == list(range(1, len(found) + 1)), "no line is lost, and all in order"
        print(f"{DOWN_S} s without a broker, {flaps} times there and gone: {sensor.sent} messages,")
        print(f"{len(work.jobs)} results, {len(work.tries)} jobs of {ATTEMPTS} attempts")


def tried(lab: Lab, listener: Listener, job: str) -> set[str]:
    """The attempts of a job that are told of; those of one device have to come in order."""
    heard = results(listener, "tries").get(job, [])
    for device in lab.devices:
        mine = [int(e.json()["stdout"]) for e in heard if e.json()["peer"] == device.peer]
        assert mine == sorted(set(mine)), f"{device.name} has sent them out of order: {mine}"
    return {each.json()["execution"] for each in heard}


# ---- more lines than are kept --------------------------------------------------------------------

LOG_BYTES: Final = 65536
FLOODS: Final = (100, 20_000, 60_000)  # the last number of each; the first fits


def test_of_lines_that_are_not_kept_the_oldest_go_and_are_counted(mosquitto: Mosquitto) -> None:
    """Twice: what a daemon prints while its broker is away is more than `task.log_bytes_max`."""
    lab = Lab(1)
    give_broker(lab[0], mosquitto.port)
    lab[0].environment["SHOAL_TASK_LOG_BYTES_MAX"] = str(LOG_BYTES)
    with lab, Listener(mosquitto.port, "out/#") as listener:
        gate = lab.directory / "gate"
        os.mkfifo(gate)
        gate.chmod(0o666)  # for a task of another user
        floods = [f"seq {first + 1} {last}" for first, last in pairwise((0, *FLOODS))]
        script = f"; read go < {gate}; ".join(floods)
        spec = publishing_job(f"{script}; exec sleep 600", "flood", Topic="out/flood", Lines=True)
        del spec["Count"]
        job = submit(lab[0], {**spec, "Type": "daemon"})
        listener.until(lambda: len(listener.on("flood")) == FLOODS[0], "what fits is there")
        heard = first_of_each(listener.on("flood"))
        assert [int(each.payload) for each in heard] == list(range(1, FLOODS[0] + 1))
        assert not any("dropped_bytes" in each.properties for each in heard)
        lost = 0
        for before, last in pairwise(FLOODS):
            mosquitto.stop()
            lab.until(lambda: not there(lab[0]), "it is missed", WAIT_S)
            gate.open("w").close()
            lab.until(lambda last=last: printed(lab[0], job) == last, "all is printed", WAIT_S)
            mosquitto.start()
            known = len(heard)
            listener.until(
                lambda last=last: last in (int(e.payload) for e in listener.on("flood")), "its end"
            )
            heard = first_of_each(listener.on("flood"))
            numbers = [int(each.payload) for each in heard[known:]]
            first = numbers[0]
            assert numbers == list(range(first, last + 1)), "the newest are there, and in order"
            assert LOG_BYTES // 2 <= size_of(first, last) <= LOG_BYTES, "as many as are kept"
            dropped = size_of(before + 1, first - 1)
            said = [each.properties.get("dropped_bytes") for each in heard[known:]]
            assert said == [str(dropped)] + [None] * (len(numbers) - 1), "its next line says so"
            lost += dropped
            lab.until(lambda lost=lost: told(lab[0], job) == lost, "events say how much", WAIT_S)


def size_of(first: int, last: int) -> int:
    """Of these numbers, each a line."""
    return sum(len(f"{number}\n") for number in range(first, last + 1))


def printed(device: Device, job: str) -> int:
    """The last whole line of what a daemon has said; others may come as it is asked for."""
    with device.client() as client:
        lines = b"".join(log_bytes(line) for line in client.logs(job, stream="stdout", tail=1))
    *_, last, _ = [b"0", *lines.split(b"\n")]
    return int(last)


def told(device: Device, job: str) -> int:
    """How many bytes of its lines are lost, as the newest of the events says."""
    with device.client() as client:
        events = [e for e in client.events(job=job) if e["kind"] == "mqtt.dropped"]
    found = [int(each["fields"]["dropped_bytes"]) for each in events]
    assert found == sorted(found)
    return found[-1] if found else 0

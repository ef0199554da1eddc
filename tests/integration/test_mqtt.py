"""Results and lines of real agents at a real Mosquitto: outages, kills at the worst moments."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest

from tests.lab import Device, Lab, process_job
from tests.mosquitto import Mosquitto
from tests.mqttlab import give_broker
from tests.mqttlistener import Heard, Holding, Listener

KILLS: Final = int(os.environ.get("SHOAL_TEST_KILLS", "12"))  # 100 are a matter of minutes
ROUND_S: Final = 60  # of one kill at most, on a machine that others use too


@pytest.fixture(scope="module")
def two(holding: Holding) -> Iterator[Lab]:
    """The first has the broker, the second has none."""
    lab = Lab(2)
    give_broker(lab[0], holding.port)
    with lab:
        yield lab


@pytest.fixture
def lab(two: Lab, holding: Holding, mosquitto: Mosquitto) -> Iterator[Lab]:
    yield two
    holding.let_go()
    if mosquitto.process is None:
        mosquitto.start()
    two.start(*(device for device in two.devices if device.process is None))
    with two[0].client() as client:
        for view in client.jobs(type="daemon")["jobs"]:
            client.delete(view["id"])


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    with Listener(mosquitto.port, "shoal/#", f"listener-{time.monotonic_ns()}") as listener:
        yield listener


def publishing_job(script: str, name: str = "job", **params: Any) -> dict[str, Any]:
    publisher = {"Type": "mqtt", "Params": {"Broker": "home", **params}}
    return process_job("sh", "-c", script, name=name, Task={"Publisher": publisher})


def submit(device: Device, spec: dict[str, Any]) -> str:
    with device.client() as client:
        return str(client.submit(spec)["job"])


def checks(device: Device) -> dict[str, Any]:
    with device.client() as client:
        return {each["check"]: each for each in client.doctor()}


def story(lab: Lab, listener: Listener, job: str) -> str:
    """What was heard of a job, and what each device knows of it, to find out why it came to
    nothing."""
    views = []
    for device in lab.devices:
        with device.client() as client:
            views.append(json.dumps(client.job(job)))
    return f"{job}; heard {listener.on(f'{job}/result/0')}; known {views}"


def until_ended(lab: Lab, job: str) -> None:
    with lab[0].client() as client:
        lab.until(lambda: client.job(job)["state"] == "completed", f"{job} has ended")


def connected(lab: Lab) -> None:
    lab.until(lambda: checks(lab[0])["broker home"]["ok"] is True, "the broker is connected to")


def first_of_each(heard: list[Heard]) -> list[Heard]:
    """Without duplicates, which have to be the same message."""
    seen: dict[str, Heard] = {}
    for each in heard:
        before = seen.setdefault(each.id, each)
        assert (before.topic, before.payload) == (each.topic, each.payload), each.id
    return list(seen.values())


def succeeded(heard: list[Heard]) -> list[Heard]:
    """Without attempts that a kill lost before their task began, which are results as well."""
    return [each for each in heard if each.json()["outcome"] == "success"]


def differing(device: Device, heard: dict[str, list[Heard]]) -> list[str]:
    """Jobs of which a copy of a message is not the same again under its id, or of whose messages
    more tell of success than that of the execution that counts."""
    other = []
    with device.client() as client:
        for job, copies in heard.items():
            execution = client.job(job)["slots"][0]["execution"]
            ids = {(each.id, each.json()["id"], each.json()["execution"]) for each in copies}
            same = len({each.payload for each in copies}) == len(ids) == len({id for id, *_ in ids})
            once = {each.id for each in succeeded(copies)} == {execution}
            if not (same and once and all(len(set(each)) == 1 for each in ids)):
                other.append(f"{job} ran as {execution}: {ids}")
    return other


def test_a_result_its_jobs_state_and_the_device_are_at_the_broker(
    lab: Lab, listener: Listener
) -> None:
    connected(lab)
    job = submit(lab[1], publishing_job("echo hello; exit 3", "greeting"))
    topic = f"shoal/lab/job/{job}/result/0"
    (result,) = listener.until(lambda: listener.on(topic), "the result")
    body = result.json()
    assert body["id"] == result.id == body["execution"]
    assert (body["job"], body["name"], body["slot"], body["peer"]) == (
        job, "greeting", 0, lab[0].peer,
    )  # fmt: skip
    assert (body["outcome"], body["exit_code"], body["stdout"]) == ("failure", 3, "hello\n")
    assert (body["truncated"], body["stdout_bytes"]) == (False, 6)
    root = f"shoal/lab/peer/{lab[0].peer}"
    assert listener.on(f"{root}/status")[0].payload == b"online"
    state = listener.until(lambda: listener.on(f"{root}/state"), "its state")[-1].json()
    assert state["name"] == "d00" and state["labels"]["broker.home"] == "true"
    own = submit(lab[0], publishing_job("echo again"))
    listener.until(
        lambda: [e for e in listener.on(f"job/{own}/state") if e.json()["state"] == "completed"],
        "the state of a job that the device coordinates",
    )
    assert any(e.json()["kind"] == "job.accepted" for e in listener.on("/event"))


def test_formats_topics_and_what_is_too_long(lab: Lab, listener: Listener) -> None:
    connected(lab)
    raw = {"Topic": "shoal/x/{name}/{slot}", "Format": "raw", "QoS": 0}
    submit(lab[0], publishing_job("printf 'a\\000\\377'", "binary", **raw))
    heard, *_ = listener.until(lambda: listener.on("shoal/x/binary/0"), "raw bytes")
    assert heard.payload == b"a\x00\xff" and heard.properties["outcome"] == "success"
    submit(lab[0], publishing_job("head -c 200000 /dev/zero", "long", Topic="shoal/x/{name}"))
    heard, *_ = listener.until(lambda: listener.on("shoal/x/long"), "what is cut")
    body = heard.json()
    assert body["truncated"] is True and body["stdout_bytes"] == 200_000
    assert len(body["stdout"]) == 65536 and heard.properties["truncated"] == "true"


def test_a_device_without_the_broker_refuses_and_says_what_would_help(lab: Lab) -> None:
    missing = publishing_job("true")
    missing["Tasks"][0]["Publisher"]["Params"]["Broker"] = "office"
    job = submit(lab[0], missing)

    def why() -> str:
        done = lab.shoal(lab[0], "why", job)
        return done.out if "no MQTT broker office is configured" in done.out else ""

    assert "[mqtt.brokers.office]" in lab.until(why, "the reason")
    with lab[0].client() as client:
        client.stop(job)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_results_wait_for_a_broker_that_is_away(
    lab: Lab, listener: Listener, mosquitto: Mosquitto, how: signal.Signals
) -> None:
    connected(lab)
    mosquitto.stop(how)
    jobs = [submit(lab[0], publishing_job(f"echo {number}")) for number in range(5)]
    with lab[0].client() as client:
        for job in jobs:
            lab.until(lambda job=job: client.job(job)["state"] == "completed", "done without it")
    entry = checks(lab[0])["broker home"]
    assert entry["ok"] is False and entry["fix"], entry
    lab.kill(lab[0])
    lab.start(lab[0])
    mosquitto.start()
    for number, job in enumerate(jobs):
        heard = listener.until(lambda job=job: listener.on(f"{job}/result/0"), "its result")
        # A listener that connects again hears what is retained, beside what its session kept.
        assert {(each.id, each.json()["stdout"]) for each in heard} == {
            (heard[0].id, f"{number}\n")
        }


def on_disk(device: Device, jobs: list[str]) -> set[str]:
    """Of these jobs, those whose results are saved, and not acknowledged by the broker."""
    with closing(sqlite3.connect(f"file:{device.data_dir}/shoal.db?mode=ro", uri=True)) as database:
        rows = [row for (row,) in database.execute("SELECT value FROM row WHERE bucket = 'outbox'")]
    return {job for job in jobs if any(f"/{job}/result/0".encode() in row for row in rows)}


@pytest.mark.timeout(max(900, ROUND_S * KILLS))
def test_kills_lose_no_result_and_duplicates_have_the_same_id(
    lab: Lab, listener: Listener, holding: Holding
) -> None:
    """By turns while it runs; between a result, which is saved with its message, and its
    publishing; and between publishing and PUBACK."""
    jobs: list[str] = []
    hit: Counter[str] = Counter()
    for turn in range(KILLS):
        kind = ("running", "publishing-puback", "result-publishing", "publishing-puback")[turn % 4]
        connected(lab)
        if kind != "running":  # what earlier turns left would else be all that may be on its way
            lab.until(lambda: "results" not in checks(lab[0])["broker home"]["text"], "all is out")
        if kind == "publishing-puback":
            holding.hold()
        elif kind == "result-publishing":
            holding.mute()
        spec = publishing_job(f"echo {turn}", "killed")
        # Its device may be there for a second at a time, until the last turn.
        spec["Tasks"][0]["Timeouts"] = {"QueueTimeout": 3600}
        new = [submit(lab[0], spec) for _ in range(3)]
        if kind == "publishing-puback":  # the broker has it, and the agent does not know
            listener.until(lambda job=new[-1]: listener.on(f"{job}/result/0"), "it is published")
            assert new[-1] in on_disk(lab[0], new)
        elif kind == "result-publishing":  # all three are on the disk, and the broker has none
            lab.until(lambda new=new: on_disk(lab[0], new) == set(new), "all are saved")
            assert not [job for job in new if listener.on(f"{job}/result/0")]
        lab.kill(lab[0])
        holding.let_go()
        lab.start(lab[0])
        jobs += new
        hit[kind] += 1
    for job in jobs:
        listener.until(
            lambda job=job: succeeded(listener.on(f"{job}/result/0")),
            lambda job=job: f"that of {story(lab, listener, job)}",
        )
    # The broker passes on in the order in which it came: whatever comes twice is there by then.
    connected(lab)
    lab.until(lambda: "results" not in checks(lab[0])["broker home"]["text"], "all is out")
    last = submit(lab[0], publishing_job("echo last", "killed"))
    listener.until(lambda: listener.on(f"{last}/result/0"), "what came after them")
    heard = {job: listener.on(f"{job}/result/0") for job in jobs}
    assert differing(lab[0], heard) == []
    copies = sum(len(each) - len({copy.id for copy in each}) for each in heard.values())
    assert copies >= hit["publishing-puback"], "what was not acknowledged was published again"
    print(f"{KILLS} kills ({dict(hit)}): {len(jobs)} results, none lost; {copies} came twice")


def test_lines_without_a_topic_are_the_jobs_log_for_whoever_looks_just_now(
    lab: Lab, listener: Listener
) -> None:
    connected(lab)
    job = submit(lab[1], publishing_job("echo one; echo two", "logged", Lines=True))
    topic = f"shoal/lab/job/{job}/log/{lab[0].peer}"
    heard = listener.until(lambda: len(listener.on(topic)) == 2 and listener.on(topic), "lines")
    assert [(each.payload, each.qos, each.retain) for each in heard] == [
        (b"one", 0, False), (b"two", 0, False),
    ]  # fmt: skip
    assert len({each.id for each in heard}) == 2
    until_ended(lab, job)
    assert not listener.on(f"{job}/result/0")


@pytest.mark.timeout(max(600, ROUND_S * KILLS))
def test_lines_of_a_daemon_come_in_order_over_kills_and_outages(
    lab: Lab, listener: Listener, mosquitto: Mosquitto, holding: Holding
) -> None:
    connected(lab)
    script = 'n=0; while :; do n=$((n+1)); echo "{\\"n\\": $n}"; sleep 0.02; done'
    spec = publishing_job(script, "sensor", Topic="shoal/lines/{name}", Lines=True)
    spec["Type"] = "daemon"
    del spec["Count"]
    submit(lab[0], spec)

    def numbers() -> list[int]:
        return [each.json()["n"] for each in first_of_each(listener.on("lines/sensor"))]

    def more() -> None:
        had = len(numbers())
        listener.until(lambda: len(numbers()) >= had + 30, "more lines")

    for _ in range(max(1, KILLS // 10)):
        more()
        lab.kill(lab[0])  # the task runs on
        lab.start(lab[0])
        more()
        holding.hold()
        assert holding.held.wait(60.0), "something that it has published is not acknowledged"
        lab.kill(lab[0])
        holding.let_go()
        lab.start(lab[0])
    more()
    mosquitto.stop()
    lab.until(lambda: checks(lab[0])["broker home"]["ok"] is False, "the outage is noticed")
    mosquitto.start()
    more()
    found = numbers()
    assert found == list(range(1, len(found) + 1)), "none is lost, and all are in order"

"""Templates that messages run, on real agents at a real Mosquitto: one job each, whoever hears."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import cbor2
import pytest
import yaml

from tests.lab import Lab, LabError
from tests.mosquitto import Mosquitto, free_port
from tests.mqttlab import (
    ALLOW,
    acknowledged,
    give_broker,
    heard_of,
    hearing,
    outputs,
    part_at,
    runs,
    send,
    spec_of,
    template,
    with_broker,
)
from tests.mqttlistener import Holding

KILLS: Final = int(os.environ.get("SHOAL_TEST_KILLS", "12"))  # at most 240, in 10 minutes for 100
ROUND_S: Final = 60  # of one kill at most, on a machine that others use too
QUIET_S: Final = 10.0  # a rank waits 4 s for the one before it, and some have yet to hear of all


@pytest.fixture(scope="module")
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    """All three have the broker; the last one's owner lets MQTT run nothing."""
    lab = with_broker(3, mosquitto)
    del lab[2].environment["SHOAL_MQTT_ALLOW"]
    with lab:
        yield lab


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


def test_text_where_a_number_is_wanted_is_filtered_and_shown_as_that(
    lab: Lab, mosquitto: Mosquitto
) -> None:
    template(lab, "warm", "in/warm", When="t > `30`")
    for payload in ('{"t": "31"}', "31 °C", '{"t": 31}', '{"t": "32"}'):
        send(mosquitto, "in/warm", payload)
    wanted = Counter({'{"t": 31}': 1})
    lab.until(lambda: outputs(lab, "warm") == wanted, "the one that is meant has run", 60)
    lab.until(lambda: part_of(lab, "warm")["filtered"] == 3, "the others are counted", 60)
    part = part_of(lab, "warm")
    assert (part["heard"], part["fired"], part["refused"]) == (4, 1, {})
    shown = lab.shoal(lab[0], "template", "show", "warm").out
    assert re.search(r"^d\d\d.* yes +4 +3 +1 +0 ", shown, re.M), shown
    assert "refused" not in shown, shown


def test_an_expression_that_is_none_makes_no_template(lab: Lab) -> None:
    """Rather than that it refuses each message."""
    path = lab.directory / "hot.yaml"
    for when, says in (("t > 30", "no JMESPath"), ("size(t) > `30`", "no function size()")):
        path.write_text(yaml.safe_dump(spec_of("hot", "in/hot", When=when)))
        done = lab.shoal(lab[0], "template", "set", "hot", str(path))
        assert done.code != 0 and "Trigger.Mqtt.When" in done.err and says in done.err, done
    with lab[0].client() as client:
        assert not [view for view in client.jobs(type="template")["jobs"] if view["name"] == "hot"]


def test_what_is_far_too_long_is_refused_and_counted(lab: Lab, mosquitto: Mosquitto) -> None:
    """Longer than what is read of a message at all."""
    template(lab, "pictures", "in/pictures", BytesMax="1Ki")
    send(mosquitto, "in/pictures", "x" * (3 << 20))
    send(mosquitto, "in/pictures", "small")
    lab.until(lambda: outputs(lab, "pictures") == Counter({"small": 1}), "the next one has run", 60)
    shown = lab.shoal(lab[0], "template", "show", "pictures").out
    assert "1 refused: a payload over 1024 bytes (BytesMax)" in shown, shown


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
    for device, port in zip(lab.devices, (free_port(), mosquitto.port), strict=True):
        give_broker(device, port, ALLOW)
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


# ---- payloads -------------------------------------------------------------------------------

CBOR: Final = cbor2.dumps({"t": 31, "raw": b"\x00\xff"})
PAYLOADS: Final = {
    "text": b"warm\n",
    "nothing": b"",
    "a NUL": b"a\x00b",
    "no UTF-8": b"\xff\xfe\x80",
    "CBOR": CBOR,
    "broken JSON": b'{"t": ',
    "the most": bytes(range(256)) * 128,
}
READ: Final = {
    "stdin": "sha256sum",
    "file": 'sha256sum < "$SHOAL_TRIGGER_FILE"',
    "env": 'printf %s "$SHOAL_TRIGGER_PAYLOAD" | sha256sum',
}


def part_of(lab: Lab, name: str) -> dict[str, Any]:
    """Of the one device that hears a template without ids, what it says of it."""
    parts = [part_at(device, name) for device in lab.devices]
    (part,) = [part for part in parts if part["heard"]]
    return part


@pytest.mark.parametrize("way", list(READ))
def test_a_task_gets_each_byte_of_what_came(lab: Lab, mosquitto: Mosquitto, way: str) -> None:
    """At either QoS; a variable holds text without NUL alone, and 1 MB nothing."""
    name, topic = f"bytes-{way}", f"in/bytes/{way}"
    template(lab, name, topic, READ[way], Input=way, BytesMax="32Ki")
    barred = {"a NUL", "no UTF-8", "CBOR", "the most"} if way == "env" else set()
    taken = [payload for what, payload in PAYLOADS.items() if what not in barred]
    for payload in PAYLOADS.values():
        send(mosquitto, topic, payload)
    send(mosquitto, topic, bytes(1_000_000))
    send(mosquitto, topic, b"at QoS 0", qos=0)
    digests = [hashlib.sha256(payload).hexdigest() for payload in (*taken, b"at QoS 0")]
    wanted = Counter(f"{digest}  -\n" for digest in digests)
    lab.until(lambda: outputs(lab, name) == wanted, "all that is fit has run", 60)
    part = part_of(lab, name)
    assert (part["heard"], part["fired"]) == (len(PAYLOADS) + 2, len(taken) + 1)
    refused = part["refused"]
    assert sum(refused.values()) == len(barred) + 1
    assert refused["a payload over 32768 bytes (BytesMax)"] == 1


def test_cbor_is_filtered_and_comes_to_the_task_as_it_is(lab: Lab, mosquitto: Mosquitto) -> None:
    script = READ["file"]
    template(lab, "cbor", "in/cbor", script, Input="file", When="t > `25`", Dedup={"Key": "id"})
    cold, warm = ({"t": celsius, "id": f"c{celsius}"} for celsius in (20, 31))
    for payload in (cbor2.dumps(cold), b"\xa1\x61", b"\xff\x00", cbor2.dumps(warm)):
        send(mosquitto, "in/cbor", payload)
    wanted = Counter({f"{hashlib.sha256(cbor2.dumps(warm)).hexdigest()}  -\n": 1})
    lab.until(lambda: outputs(lab, "cbor") == wanted, "the one that is meant has run", 60)
    assert len(runs(lab, "cbor")) == 1


# ---- kills ----------------------------------------------------------------------------------


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


@pytest.mark.timeout(max(900, ROUND_S * KILLS))
def test_kills_lose_no_message_and_make_no_second_job_of_one(mosquitto: Mosquitto) -> None:
    """By turns: at once; between journal and PUBACK; between PUBACK and firing (the second rank
    waits for the first, which hears nothing); all devices at once.

    Of messages without ids, which one device hears, each is one job as well.
    """
    ways = [Holding(mosquitto.port), Holding(mosquitto.port)]
    lab = Lab(2)
    for device, way, allow in zip(lab.devices, ways, (ALLOW, "template/kill-keyed"), strict=True):
        give_broker(device, way.port, allow)
    hit: Counter[str] = Counter()
    try:
        with lab:
            template(lab, "kill-keyed", "kill/keyed", Dedup={})
            template(lab, "kill-plain", "kill/plain")
            for turn in range(KILLS):
                lab.until(lambda: hearing(lab, "kill/keyed") == 2, "both hear")
                lab.until(lambda: hearing(lab, "kill/plain") == 1, "one hears")
                hit[_one_kill(lab, mosquitto, ways, turn)] += 1
            wanted = {
                name: Counter(f"{turn}.{part}" for turn in range(KILLS) for part in range(parts))
                for name, parts in (("kill-keyed", 3), ("kill-plain", 1))
            }
            for name, each in wanted.items():
                with contextlib.suppress(LabError):
                    lab.until(lambda n=name, e=each: completed(lab, n) >= e, "jobs", 120)
                assert each - completed(lab, name) == Counter(), f"{name}: none is lost"
            # Who is not the first to fire looks at 4 s: a second job would be there by then.
            end = time.monotonic() + QUIET_S
            lab.until(lambda: time.monotonic() > end, "it is quiet")
            for name, each in wanted.items():
                for device in lab.devices:
                    assert heard_of(device, name) == each, f"{name}: one job each, in any state"
            print(f"{KILLS} kills ({dict(hit)}): {3 * KILLS} messages with ids and {KILLS} without")
    finally:
        for way in ways:
            way.close()
    assert set(hit) == {"at once", "journal-puback", "puback-firing", "all"}


def completed(lab: Lab, name: str) -> Counter[str]:
    return heard_of(lab[0], name, state="completed")


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

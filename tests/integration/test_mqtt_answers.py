"""Questions over a real Mosquitto, answered by real agents, over outages and kills."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest

from tests.lab import ROOT, Device, Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import ALLOW, give_broker, hearing, runs, send, template
from tests.mqttlistener import Heard, Holding, Listener

ASK: Final = ROOT / "firmware-notes" / "ask.py"
KILLS: Final = int(os.environ.get("SHOAL_TEST_KILLS", "6"))  # 255 at most: each is a byte
ROUND_S: Final = 30  # of one kill at most, on a machine that others use too
QUIET_S = 3.0  # in which a second answer would come: ranks wait 4 s for one another, and ask at 1 s


@pytest.fixture(scope="module")
def two(mosquitto: Mosquitto, holding: Holding) -> Iterator[Lab]:
    """Both hear; what the broker says to the first one can be held up."""
    lab = Lab(2)
    give_broker(lab[0], holding.port, ALLOW)
    give_broker(lab[1], mosquitto.port, "template/both-*")
    lab[0].environment["SHOAL_ACCEPT_TOPICS"] = "replies/#, loop/#"
    with lab:
        yield lab


@pytest.fixture
def lab(two: Lab, holding: Holding, mosquitto: Mosquitto) -> Iterator[Lab]:
    yield two
    holding.let_go()
    if mosquitto.process is None:
        mosquitto.start()
    two.start(*(device for device in two.devices if device.process is None))


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    with Listener(mosquitto.port, "replies/#", f"asker-{time.monotonic_ns()}") as listener:
        yield listener


def answer(listener: Listener, topic: str) -> Heard:
    heard: list[Heard] = listener.until(lambda: listener.on(topic), f"an answer on {topic}")
    first = heard[0]
    assert first.content_type == "application/json" and not first.retain
    assert first.json()["id"] == first.id
    assert first.properties["state"] == first.json()["state"]
    return first


def outbox(device: Device) -> list[str]:
    """Keys of what waits for the broker on the disk of a device."""
    with closing(sqlite3.connect(f"file:{device.data_dir}/shoal.db?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT key FROM row WHERE bucket IN ('outbox', 'answer')")
        return [key for (key,) in rows]


def asked(lab: Lab, mosquitto: Mosquitto, name: str, **more: Any) -> None:
    send(mosquitto, f"ask/{name}", more.pop("payload", "now"), reply=f"replies/{name}", **more)


def test_who_asks_is_answered_with_what_the_task_printed(
    lab: Lab, mosquitto: Mosquitto, listener: Listener
) -> None:
    template(lab, "one", "ask/one", 'echo "it is $(cat)"')
    asked(lab, mosquitto, "one", payload="warm", correlation=b"\x00\xffq1")
    heard = answer(listener, "replies/one")
    told = heard.json()
    assert heard.correlation == b"\x00\xffq1"
    assert (told["state"], told["outcome"], told["error"]) == ("completed", "success", "")
    assert (told["exit_code"], told["stdout"], told["name"]) == (0, "it is warm\n", "one")
    assert told["peer"] in {device.peer for device in lab.devices}
    (run,) = runs(lab, "one")
    assert told["job"] == run["id"] and told["execution"] == run["slots"][0]["execution"]


def test_the_example_of_the_firmware_notes_asks_and_prints(lab: Lab, mosquitto: Mosquitto) -> None:
    script = 'read what; echo "$what it is"; test $what = yes'
    template(lab, "both-ask", "ask/both-ask", script, Dedup={})

    def ask(text: str) -> tuple[int, str, str]:
        words = [sys.executable, str(ASK), "127.0.0.1", str(mosquitto.port), "ask/both-ask", text]
        done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
        return done.returncode, done.stdout, done.stderr

    assert ask("yes\n") == (0, "yes it is\n", "")
    code, out, err = ask("no\n")
    assert (code, out) == (1, "") and err.startswith("failed: ")


def test_a_run_that_fails_and_a_message_that_runs_nothing_are_answered(
    lab: Lab, mosquitto: Mosquitto, listener: Listener
) -> None:
    template(lab, "bad", "ask/bad", "echo half; exit 3", When="ok", BytesMax="100")
    asked(lab, mosquitto, "bad", payload='{"ok": true}')
    told = answer(listener, "replies/bad").json()
    assert (told["state"], told["exit_code"], told["stdout"]) == ("failed", 3, "half\n")
    assert told["error"]
    send(mosquitto, "ask/bad", '{"ok":', reply="replies/broken", correlation=b"r")
    heard = answer(listener, "replies/broken")
    assert heard.correlation == b"r" and heard.json()["state"] == "refused"
    assert "invalid JSON" in heard.json()["error"]
    send(mosquitto, "ask/bad", " " * 200, reply="replies/long")
    assert "BytesMax" in answer(listener, "replies/long").json()["error"]
    assert len(runs(lab, "bad")) == 1


def test_a_run_that_is_stopped_is_answered(
    lab: Lab, mosquitto: Mosquitto, listener: Listener
) -> None:
    template(lab, "slow", "ask/slow", "sleep 600")
    asked(lab, mosquitto, "slow")
    run = lab.until(lambda: runs(lab, "slow"), "it runs")[0]
    with lab[1].client() as client:
        client.stop(run["id"])
    told = answer(listener, "replies/slow").json()
    assert (told["state"], told["job"]) == ("stopped", run["id"]) and told["error"]


def test_two_who_hear_a_question_give_one_answer(
    lab: Lab, mosquitto: Mosquitto, listener: Listener
) -> None:
    template(lab, "both-hear", "ask/both-hear", Dedup={})
    for number in range(10):
        asked(lab, mosquitto, "both-hear", id=f"q{number}", correlation=f"c{number}".encode())
    listener.until(
        lambda: len({heard.id for heard in listener.on("both-hear")}) == 10, "all are answered"
    )
    # What follows is refused by both, and answered by one: when that is here, so is all before it.
    asked(lab, mosquitto, "both-hear", correlation=b"")
    listener.until(
        lambda: [h for h in listener.on("both-hear") if h.json()["state"] == "refused"], "refused"
    )
    end = time.monotonic() + QUIET_S
    listener.until(lambda: time.monotonic() > end, "it is quiet")
    heard = listener.on("both-hear")
    assert len(heard) == 11
    said = {each.correlation: each.json()["state"] for each in heard}
    assert said == {**{f"c{n}".encode(): "completed" for n in range(10)}, b"": "refused"}


def test_where_no_answer_may_go_none_goes_and_the_message_runs(
    lab: Lab, mosquitto: Mosquitto, listener: Listener
) -> None:
    template(lab, "loop", "loop/ask")
    for reply in ("loop/ask", "shoal/lab/event", "replies/" + "x" * 1100, "lights/hall/set"):
        send(mosquitto, "loop/ask", "x", reply=reply)
    send(mosquitto, "loop/ask", "x", reply="replies/loop", correlation=b"c" * 257)
    send(mosquitto, "loop/ask", "x", reply="replies/last")
    answer(listener, "replies/last")
    lab.until(lambda: len(runs(lab, "loop")) == 6, "each has run, once")
    assert len(listener.heard) == 1

    def part() -> Any:
        done = lab.shoal(lab[1], "template", "show", "loop")
        return done.out if "5 unanswered" not in done.out and "unanswered" in done.out else ""

    shown = lab.until(part, "it is counted, whoever is asked")
    assert "runs loop" in shown and "the shoal's own" in shown and "over 256 bytes" in shown
    assert '([accept] topics = ["replies/#", "loop/#"])' in shown
    assert "over 1024 characters" in shown and "loop/ask at broker home" in shown


def test_an_answer_outlives_an_outage_of_the_broker_and_a_kill(
    lab: Lab, mosquitto: Mosquitto, listener: Listener
) -> None:
    go = lab.directory / "go"
    go.unlink(missing_ok=True)
    script = f"while [ ! -e {go} ]; do sleep 0.05; done; cat"
    template(lab, "late", "ask/late", script)
    asked(lab, mosquitto, "late", correlation=b"late")
    lab.until(lambda: runs(lab, "late"), "it runs")
    mosquitto.stop()
    go.touch()
    lab.until(lambda: runs(lab, "late")[0]["state"] == "completed", "it ends without the broker")
    lab.until(lambda: outbox(lab[0]), "its answer is on disk")
    lab.kill(lab[0])
    mosquitto.start()
    lab.start(lab[0])
    heard = answer(listener, "replies/late")
    assert (heard.correlation, heard.json()["stdout"]) == (b"late", "now")
    assert len({each.id for each in listener.on("replies/late")}) == 1
    lab.until(lambda: not outbox(lab[0]), "nothing is owed any more")


@pytest.mark.timeout(max(300, ROUND_S * KILLS))
def test_a_kill_between_the_end_and_the_answer_loses_none(
    lab: Lab, mosquitto: Mosquitto, holding: Holding, listener: Listener
) -> None:
    """By turns while its task runs, as it ends, and with an answer that was sent and is not
    acknowledged; what comes twice is the same twice."""
    template(lab, "kill", "ask/kill", "sleep 0.3; cat")
    for turn in range(KILLS):
        lab.until(lambda: hearing(lab, "ask/kill") == 1, "it is heard")
        topic = f"replies/kill-{turn}"
        send(mosquitto, "ask/kill", str(turn), reply=topic, correlation=bytes([turn]))
        lab.until(lambda count=turn + 1: len(runs(lab, "kill")) == count, "it is a job")
        if turn % 3 == 1:
            lab.until(
                lambda: all(run["state"] == "completed" for run in runs(lab, "kill")), "it ends"
            )
        elif turn % 3 == 2:
            holding.hold()
            answer(listener, topic)
        lab.kill(lab[0])
        holding.let_go()
        lab.start(lab[0])
    for turn in range(KILLS):
        heard = answer(listener, f"replies/kill-{turn}")
        assert (heard.json()["state"], heard.json()["stdout"]) == ("completed", str(turn))
        assert heard.correlation == bytes([turn])
    lab.until(lambda: not outbox(lab[0]), "nothing is owed any more")
    for turn in range(KILLS):
        every = listener.on(f"replies/kill-{turn}")
        assert len({(each.id, each.payload, each.correlation) for each in every}) == 1, turn


def test_the_last_run_of_a_template_is_retained(lab: Lab, mosquitto: Mosquitto) -> None:
    template(lab, "kept", "ask/kept")
    send(mosquitto, "ask/kept", "x")
    lab.until(lambda: [r for r in runs(lab, "kept") if r["state"] == "completed"], "it has run")

    def last() -> Any:
        name = f"late-{time.monotonic_ns()}"
        with Listener(mosquitto.port, "shoal/lab/template/kept/last", name) as late:
            heard = late.until(lambda: late.on("kept/last"), "what is retained")
        told = heard[0].json()
        return told if heard[0].retain and told["state"] == "completed" else None

    told = lab.until(last, "the last run is at the broker")
    (run,) = runs(lab, "kept")
    assert (told["job"], told["template"]) == (run["id"], "kept") and told["ended_ms"]
    assert told["trigger"]["by"] == "message" and told["trigger"]["topic"] == "ask/kept"

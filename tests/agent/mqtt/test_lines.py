"""Lines of real processes at a real Mosquitto: bounds, outages, refusals, and what was dropped."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from agent.engines.engine import Crowded, Engines
from agent.engines.process import ProcessEngine
from agent.engines.task import TaskLaunch, TaskUser
from agent.engines.task_log import LogChunk
from agent.mqtt import lines as lines_module
from agent.mqtt import session, suspects
from agent.mqtt.broker import Broker, Brokers
from agent.mqtt.lines import Lines
from agent.mqtt.message import Outgoing
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.suspects import LOSSES_MAX
from protocol.effects import StreamLines
from protocol.events import Event, LinesPublished
from protocol.ids import ExecutionId, JobId, PeerId
from tests.agent.whole import open_directory, until
from tests.mosquitto import Mosquitto
from tests.mqttlistener import Holding, Listener

E = ExecutionId("e1")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(lines_module, "AGAIN_S", 0.05)
    monkeypatch.setattr(lines_module, "SAVED_S", 0.05)


@pytest.fixture
def root() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


@dataclass
class Running:
    """Lines of one life of an agent, and what it was told of them."""

    engine: ProcessEngine
    broker: Broker
    lines: Lines
    events: list[LinesPublished] = field(default_factory=list)

    async def launch(
        self, script: str, log_bytes_max: int = 1 << 20, execution: ExecutionId = E
    ) -> None:
        argv = ("sh", "-c", script)
        await self.engine.start(TaskLaunch(execution, argv, log_bytes_max=log_bytes_max))

    def stream(
        self, offset: int = 0, form: str = "raw", topic: str = "t", execution: ExecutionId = E
    ) -> None:
        about = (JobId("j"), 0, "n")
        self.lines.start(StreamLines(execution, "main", topic, 1, False, form, offset, about))

    async def over(self) -> LinesPublished:
        await until(lambda: self.events and self.events[-1].over)
        return self.events[-1]


@asynccontextmanager
async def running(
    root: Path, mosquitto: Mosquitto, port: int = 0, version: str = "5"
) -> AsyncIterator[Running]:
    """`port` is another way to the broker."""
    engine = ProcessEngine(root / "executions", TaskUser.default())
    url = f"mqtt://127.0.0.1:{port or mosquitto.port}"
    settings = {"main": BrokerSettings(url, version)}
    brokers = Brokers(settings, "a-peer-of-a-test", "shoal/x", lambda tell: None, Random(1))
    found: list[LinesPublished] = []

    def post(event: Event) -> None:
        assert isinstance(event, LinesPublished)
        found.append(event)

    lines = Lines(Engines(engine), brokers, post, PeerId("me"))
    broker = brokers.named("main")
    assert broker is not None
    greeted: list[bool] = []  # what the broker itself says as it connects is on its way by then
    brokers.watch(lambda _, connected: greeted.append(connected))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(brokers.run)
        nursery.start_soon(lines.run)
        await until(lambda: any(greeted) or mosquitto.process is None)
        yield Running(engine, broker, lines, found)
        nursery.cancel_scope.cancel()
    engine.close()


def payloads(listener: Listener) -> list[bytes]:
    return [heard.payload for heard in listener.heard]


async def heard(listener: Listener, condition: Callable[[list[bytes]], object]) -> None:
    await until(lambda: condition(payloads(listener)))


async def test_each_line_is_a_message_with_an_id_and_the_end_is_told(root: Path) -> None:
    with Mosquitto() as mosquitto, Listener(mosquitto.port) as listener:
        async with running(root, mosquitto) as it:
            await it.launch("printf 'one\\ntwo\\nthree'")
            it.stream()
            it.stream()  # a node that was built anew asks again
            end = await it.over()
            await heard(listener, lambda found: b"three" in found)
    ours = [each for each in listener.heard if each.topic == "t"]
    assert [(each.payload, each.id) for each in ours] == [
        (b"one", "e1:0"), (b"two", "e1:4"), (b"three", "e1:8"),
    ]  # fmt: skip
    assert (end.execution, end.offset, end.dropped_bytes) == (E, 13, 0)


async def test_it_goes_on_from_where_it_is_told_to_and_in_json(root: Path) -> None:
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "t") as listener:
        async with running(root, mosquitto) as it:
            await it.launch("printf 'one\\ntwo\\n'")
            it.stream(offset=4, form="json")
            await it.over()
            await heard(listener, len)
    (only,) = listener.heard
    assert only.json() == {
        "id": "e1:4", "job": "j", "name": "n", "slot": 0, "peer": "me", "line": "two",
    }  # fmt: skip


async def test_what_the_bound_on_outputs_dropped_while_the_broker_was_away_is_counted(
    root: Path,
) -> None:
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "t") as listener:
        async with running(root, mosquitto) as it:
            mosquitto.stop()
            await until(lambda: not it.broker.connected)
            await it.launch("seq 100000", log_bytes_max=65536)
            it.stream()
            await it.engine.wait(E)
            mosquitto.start()
            end = await it.over()
            await heard(listener, lambda found: b"100000" in found)
        numbers = [int(payload) for payload in payloads(listener)]
        assert numbers == list(range(numbers[0], 100_001)) and numbers[0] > 1
        dropped = sum(event.dropped_bytes for event in it.events)
        assert dropped == sum(len(f"{n}\n") for n in range(1, numbers[0]))
        assert it.lines.dropped_bytes("main") == dropped and it.lines.dropped_bytes("other") == 0
        assert listener.heard[0].properties["dropped_bytes"] == str(dropped)
        assert end.offset == sum(len(f"{n}\n") for n in range(1, 100_001))


async def test_lines_come_again_after_an_outage_and_in_order(root: Path) -> None:
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "t") as listener:
        async with running(root, mosquitto) as it:
            await it.launch("n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.02; done")
            it.stream()
            await heard(listener, lambda found: len(found) > 5)
            mosquitto.stop()
            await until(lambda: not it.broker.connected)
            mosquitto.start()
            await it.over()
            await heard(listener, lambda found: b"60" in found)
    seen = dict.fromkeys(payloads(listener))
    assert list(seen) == [str(number).encode() for number in range(1, 61)]


async def test_what_has_left_no_output_is_over_at_last(root: Path) -> None:
    with Mosquitto() as mosquitto:
        async with running(root, mosquitto) as it:
            it.stream()
            assert (await it.over()).offset == 0


async def test_lines_wait_for_a_place_among_those_who_follow(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than for output that is not there."""
    monkeypatch.setattr(lines_module, "CROWDED_S", 0.01)
    refused = 0
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "t") as listener:
        async with running(root, mosquitto) as it:
            read = it.engine.log

            async def crowded(*asked: Any, **more: Any) -> AsyncIterator[LogChunk]:
                nonlocal refused
                if refused <= lines_module.LOOKS_MAX:
                    refused += 1
                    await trio.lowlevel.checkpoint()
                    raise Crowded("512 follow")
                async for chunk in read(*asked, **more):
                    yield chunk

            monkeypatch.setattr(it.engine, "log", crowded)
            await it.launch("echo one")
            it.stream()
            assert (await it.over()).offset == 4
            await heard(listener, lambda found: b"one" in found)
    assert refused > lines_module.LOOKS_MAX


async def test_a_line_that_the_broker_refuses_is_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "REFUSED_S", 0.05)
    monkeypatch.setattr("agent.mqtt.denied.DENIED_S", 0.05)
    acl = "topic readwrite shoal/#\n"
    with Mosquitto(acl=acl) as mosquitto:
        async with running(root, mosquitto) as it:
            await it.launch("echo one")
            it.stream(topic="denied/t")
            await until(lambda: mosquitto.log().count("Denied PUBLISH") >= 2)
            assert not any(event.over for event in it.events)
            assert "denied/t" in it.broker.refusals


async def test_however_many_print_a_result_finds_room(root: Path) -> None:
    """Each had a place to itself, so that twenty took all that a broker has."""
    many = [ExecutionId(f"e{number}") for number in range(24)]
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "t") as listener:
        way = Holding(mosquitto.port)
        async with running(root, mosquitto, way.port) as it:
            await until(lambda: it.broker.room == it.broker.window == 20)
            way.hold()
            for execution in many:
                await it.launch(f"echo {execution}; echo more", execution=execution)
                await it.engine.wait(execution)
                it.stream(execution=execution)
            await until(lambda: it.lines.waiting == len(many))
            assert it.broker.room == lines_module.SPARE
            ends: list[str] = []
            assert all(it.broker.publish(Outgoing("r", b"x"), ends.append) for _ in range(6))
            way.let_go()
            await until(lambda: sum(event.over for event in it.events) == len(many))
            await until(lambda: len(ends) == 6)
            await heard(listener, lambda found: len(found) >= 2 * len(many))
        way.close()
    assert sorted(payloads(listener)) == sorted([*(e.encode() for e in many), *[b"more"] * 24])


@pytest.mark.parametrize("form", ["raw", "json", "cbor"])
async def test_a_line_larger_than_the_broker_takes_is_cut_and_stops_nothing(
    root: Path, form: str
) -> None:
    with (
        Mosquitto(more="max_packet_size 20000") as mosquitto,
        Listener(mosquitto.port, "t") as listener,
    ):
        async with running(root, mosquitto) as it:
            await it.launch(
                "echo one; head -c 30000 /dev/zero | tr '\\0' '\\001'; echo; echo three; echo four"
            )
            it.stream(form=form)
            assert (await it.over()).offset == 30_001 + len("one\nthree\nfour\n")
            await heard(listener, lambda found: len(found) == 4)
    one, cut, three, four = listener.heard
    assert [each.id for each in listener.heard] == ["e1:0", "e1:4", "e1:30005", "e1:30011"]
    assert 15_000 < len(cut.payload) < 20_000
    assert 0 < int(cut.properties["truncated_bytes"]) < 30_000
    assert b"one" in one.payload and b"three" in three.payload and b"four" in four.payload


async def test_a_line_that_the_broker_does_not_take_in_any_length_is_left_out_and_counted(
    root: Path,
) -> None:
    """A topic alone can be longer than that."""
    with Mosquitto(more="max_packet_size 200") as mosquitto:
        async with running(root, mosquitto) as it:
            await it.launch("echo one; echo two")
            it.stream(topic="t" * 190)
            end = await it.over()
            assert end.offset == 8 and sum(event.dropped_bytes for event in it.events) == 8
            assert it.broker.refusals == {}


@pytest.fixture
def _soon_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "STEADY_S", 0.5)
    monkeypatch.setattr(suspects, "OTHERS_S", 0.1)
    monkeypatch.setattr(lines_module, "HELD_S", 0.1)


@pytest.mark.usefixtures("_soon_steady")
async def test_lines_that_a_broker_ends_the_connection_over_are_left_out_and_counted(
    root: Path,
) -> None:
    """One of MQTT 3.1.1 cannot say how much it takes. Others go on meanwhile."""
    other, large = ExecutionId("e2"), "head -c 3000 /dev/zero | tr '\\0' x; echo"
    with (
        Mosquitto(more="max_packet_size 2000") as mosquitto,
        Listener(mosquitto.port, "+") as listener,
    ):
        async with running(root, mosquitto, version="3.1.1") as it:
            await it.launch(f"echo one; {large}; echo three; {large}; echo five")
            await it.launch("for n in 1 2 3 4 5; do echo $n; sleep 1; done", execution=other)
            it.stream()
            it.stream(topic="u", execution=other)
            await until(lambda: sum(event.over for event in it.events) == 2)
            await until(lambda: listener.on("u")[-1:] and listener.on("u")[-1].payload == b"5")
            await until(lambda: listener.on("t")[-1].payload == b"five")
            assert it.lines.dropped_bytes("main") == 2 * 3001
        ours = [each.payload for each in listener.on("t")]
        assert list(dict.fromkeys(ours)) == [b"one", b"three", b"five"]
        assert list(dict.fromkeys(each.payload for each in listener.on("u"))) == [
            b"%d" % number for number in range(1, 6)
        ]
        assert mosquitto.log().count("due to oversize packet") <= 2 * (LOSSES_MAX + 1)


@pytest.mark.usefixtures("_soon_steady")
@pytest.mark.parametrize("qos", [0, 1])
async def test_lines_to_a_topic_that_ends_the_connection_wait_for_the_access_list(
    root: Path, qos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which a broker of MQTT 3.1.1 says nothing, and acknowledges them."""
    monkeypatch.setattr(lines_module, "REFUSED_S", 0.2)
    acl = "topic readwrite shoal/#\n"
    with Mosquitto(acl=acl) as mosquitto:
        async with running(root, mosquitto, version="3.1.1") as it:
            await it.launch("while :; do echo line; sleep 0.05; done")
            about = (JobId("j"), 0, "n")
            it.lines.start(StreamLines(E, "main", "denied/t", qos, False, "raw", 0, about))
            await until(lambda: "denied/t" in it.broker.refusals)
            await until(lambda: it.broker.connected)
            count = mosquitto.log().count("Denied PUBLISH")
            assert count < 30
            await trio.sleep(1.0)
            assert mosquitto.log().count("Denied PUBLISH") == count and it.broker.connected
            await it.engine.stop(E, 0.0)

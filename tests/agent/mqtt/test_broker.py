"""Brokers against a real Mosquitto: outages, wrong passwords and authorities, sessions, acks."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest
import trio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from trio.testing import MockClock

from agent.mqtt import session, suspects
from agent.mqtt.broker import Broker, Brokers, check_filter
from agent.mqtt.client import IN_FLIGHT_MAX, WAITING_BYTES_MAX, Client
from agent.mqtt.message import Incoming, Outgoing
from agent.mqtt.packet import Packet
from agent.mqtt.refusal import ENDS, ENDS_TOPIC, HELD, LOST
from agent.mqtt.sending import Sending
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.suspects import LOSSES_MAX, REFUSED_FIRST_S, REFUSED_MAX_S, TOPIC_MAX
from protocol.effects import Tell
from tests.agent.mqtt import fragile
from tests.mosquitto import Certificates, Mosquitto
from tests.mqttlistener import Listener

WAIT_S = 30.0
PEER = "12D3KooWabcdefghijkl"
STATUS = f"shoal/home/peer/{PEER}/status"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(session, "RETRY_MAX_S", 0.2)


async def until(condition: Callable[[], object], what: str = "") -> None:
    with trio.move_on_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what happens at the broker sets no event
            await trio.sleep(0.01)
        return
    raise AssertionError(f"it never came true: {what}")


@asynccontextmanager
async def connecting(
    settings: BrokerSettings, told: list[Tell] | None = None, peer: str = PEER
) -> AsyncIterator[Broker]:
    """A broker that is being connected to; in the end it is left without a goodbye."""
    tell = (told if told is not None else []).append
    brokers = Brokers({"main": settings}, peer, "shoal/home", tell, Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(brokers.run)
        broker = brokers.named("main")
        assert broker is not None
        yield broker
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(
    settings: BrokerSettings, told: list[Tell] | None = None, peer: str = PEER
) -> AsyncIterator[Broker]:
    async with connecting(settings, told, peer) as broker:
        await until(lambda: broker.connected, "connected")
        yield broker


async def publish(broker: Broker, message: Outgoing) -> str:
    """Its end: empty where the broker has it."""
    ends: list[str] = []
    await until(lambda: broker.publish(message, ends.append), "room")
    await until(lambda: ends, "acknowledged")
    return ends[0]


async def answer(broker: Broker, message: Outgoing) -> str:
    """Its end, as `publish` has it."""
    ends: list[str] = []
    while ends in ([], [LOST]):  # as an outbox sends it again
        ends.clear()
        await until(lambda: broker.answer(message, ends.append), "room")
        await until(lambda: ends, "acknowledged")
    return ends[0]


async def subscribed(mosquitto: Mosquitto, count: int = 1) -> None:
    """Until the broker has said so often that a subscription stands."""
    await until(lambda: mosquitto.log().count("Sending SUBACK") >= count, "subscribed")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_what_is_published_is_heard(version: str) -> None:
    with Mosquitto() as mosquitto:
        heard: list[Incoming] = []
        async with connected(BrokerSettings(mosquitto.url, version)) as broker:
            broker.subscribe("a/+", 1, heard.append)
            await subscribed(mosquitto)
            message = Outgoing("a/b", b"\x00\xff", user_properties=(("id", "7"),), correlation=b"c")
            assert await publish(broker, message) == ""
            await until(lambda: heard)
        (one,) = heard
        assert (one.broker, one.topic, one.payload, one.qos) == ("main", "a/b", b"\x00\xff", 1)
        assert not one.retain and not one.dup and one.packet_id > 0
        if version == "5":
            assert one.user_property("id") == "7" and one.correlation == b"c"
        else:
            assert one.user_properties == () and one.correlation is None


async def test_no_message_is_held_back_for_the_acknowledgement_of_another() -> None:
    with Mosquitto() as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            client = broker._sessions[""]._client
            assert client is not None
            sock = client._paho.socket()
            assert sock is not None
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # type: ignore[attr-defined]


async def session_found(mosquitto: Mosquitto, version: str) -> list[bool]:
    """Whether a session begins anew, by its first connection."""
    told: list[bool] = []
    settings = {"main": BrokerSettings(mosquitto.url, version)}
    brokers = Brokers(settings, PEER, "shoal/home", lambda tell: None, Random(1))
    broker = brokers.named("main")
    assert broker is not None

    def watch(name: str, session: str, connected: bool) -> None:
        if session == "kept" and connected:
            told.append(broker.begun_anew(session))

    brokers.watch_sessions(watch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(brokers.run)
        subscription = broker.subscribe("a/b", 1, lambda message: None, "kept")
        await until(lambda: told and subscription.granted)
        nursery.cancel_scope.cancel()
    return told


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_session_that_the_broker_has_forgotten_is_told_of(version: str) -> None:
    with Mosquitto() as mosquitto:
        assert await session_found(mosquitto, version) == [True]
        assert await session_found(mosquitto, version) == [False]
        mosquitto.stop()
        (mosquitto.root / "mosquitto.db").unlink()
        mosquitto.start()
        assert await session_found(mosquitto, version) == [True]


async def stay(settings: BrokerSettings, peer: str, heard: list[Incoming]) -> bool:
    """Connect a session, hear what has waited in it, and leave; whether it begins anew."""
    async with connecting(settings, peer=peer) as broker:
        subscription = broker.subscribe("a/b", 1, heard.append, "kept")
        await until(lambda: subscription.granted)
        return broker.begun_anew("kept")


async def test_a_session_is_kept_for_as_long_as_its_settings_say() -> None:
    with Mosquitto() as mosquitto:
        week, second = BrokerSettings(mosquitto.url), BrokerSettings(mosquitto.url, session_s=1)
        heard: list[Incoming] = []
        assert await stay(week, "stays", heard) and await stay(second, "expires", heard)
        async with connected(week, peer="other") as other:
            assert await publish(other, Outgoing("a/b", b"meanwhile")) == ""
        await until(lambda: "Expiring client shoal-expires-kept" in mosquitto.log())
        assert await stay(second, "expires", heard) and not heard
        async with connecting(week, peer="stays") as broker:
            broker.subscribe("a/b", 1, heard.append, "kept")
            await until(lambda: heard)
        assert [message.payload for message in heard] == [b"meanwhile"]
        assert "Expiring client shoal-stays-kept" not in mosquitto.log()


@pytest.mark.parametrize(("persistent", "asked_s"), [(True, 604_800), (False, 0)])
async def test_a_broker_is_asked_to_keep_messages_of_triggers_for_a_week(
    persistent: bool, asked_s: int
) -> None:
    connects: list[bytes] = []

    async def broker_that_reads(stream: trio.SocketStream) -> None:
        connects.append(bytes(await stream.receive_some(1024)))

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, broker_that_reads, [listener])
        url = f"mqtt://127.0.0.1:{listener.socket.getsockname()[1]}"
        made = session.Session(
            "main", BrokerSettings(url), "me", persistent=persistent, will=None, rng=Random(1),
            denied=lambda *_: None, unreadable=lambda _: None, changed=lambda *_: None,
        )  # fmt: skip
        nursery.start_soon(made.run)
        await until(lambda: connects)
        nursery.cancel_scope.cancel()
    before, _, rest = connects[0].partition(b"MQTT\x05")
    assert before.startswith(b"\x10") and rest
    properties = Properties(PacketTypes.CONNECT)
    properties.unpack(rest[3:])  # behind flags and keepalive
    assert getattr(properties, "SessionExpiryInterval", 0) == asked_s


async def test_status_is_online_and_the_will_says_offline() -> None:
    with Mosquitto() as mosquitto:
        heard: list[bytes] = []
        settings = BrokerSettings(mosquitto.url)
        async with connected(settings, peer="somebody-else") as other:
            other.subscribe(STATUS, 1, lambda message: heard.append(message.payload))
            await subscribed(mosquitto)
            async with connected(settings) as broker:
                await until(lambda: heard == [b"online"])
                assert broker.trouble is None
            await until(lambda: heard == [b"online", b"offline"], "left without a goodbye")
            async with connected(settings) as broker:
                await until(lambda: heard[-1] == b"online")
                await broker.say_goodbye()
                await until(lambda: heard[-1] == b"offline", "said goodbye")


async def test_the_will_says_offline_where_there_is_no_room_for_that_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As while another message goes alone."""
    with Mosquitto() as mosquitto:
        heard: list[bytes] = []
        settings = BrokerSettings(mosquitto.url)
        async with connected(settings, peer="somebody-else") as other:
            other.subscribe(STATUS, 1, lambda message: heard.append(message.payload))
            await subscribed(mosquitto)
            async with connected(settings) as broker:
                await until(lambda: heard == [b"online"])
                monkeypatch.setattr(Sending, "room", property(lambda _: 0))
                await broker.say_goodbye()
                await until(lambda: heard == [b"online", b"offline"])


@pytest.mark.parametrize("says", [None, "not authorized"], ids=["ends", "denies"])
async def test_a_status_that_is_not_taken_is_said_again_on_the_same_connection(
    says: str | None,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    nursery: trio.Nursery,
) -> None:
    """The last end is in the status' own trial, so that it is refused for a while."""
    it = fragile.Broker(lambda message: refuses, says)
    monkeypatch.setattr(session, "Client", lambda *_, **__: fragile.Fragile(it))
    brokers = Brokers({"main": BrokerSettings("mqtt://x")}, PEER, "shoal/home", print, Random(1))
    broker, refuses = brokers.named("main"), True
    assert broker is not None
    nursery.start_soon(broker.run)
    ends = LOSSES_MAX + 2 if says is None else 2
    while len(it.connections) < ends:  # noqa: ASYNC110 - no event: the clock is a test's
        await trio.sleep(0.01)
    refuses = False
    await trio.sleep(2 * REFUSED_FIRST_S)
    assert [message.payload for _, message in it.took] == [b"online"]
    assert len(it.connections) == ends
    await trio.sleep(REFUSED_MAX_S)
    assert len(it.took) == 1, "once is enough"


async def test_where_there_was_no_room_for_the_status_it_is_said_soon_after(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    it = fragile.Broker(lambda _: False)
    monkeypatch.setattr(session, "Client", lambda *_, **__: fragile.Fragile(it))
    brokers = Brokers({"main": BrokerSettings("mqtt://x")}, PEER, "shoal/home", print, Random(1))
    broker = brokers.named("main")
    assert broker is not None
    with monkeypatch.context() as patched:
        patched.setattr(Sending, "room", property(lambda _: 0))
        nursery.start_soon(broker.run)
        await until(lambda: broker.connected)
        await trio.sleep(1.0)
    assert not it.took
    await trio.sleep(suspects.STEADY_S)
    assert [message.payload for _, message in it.took] == [b"online"]


async def test_status_is_published_again_when_the_broker_has_forgotten_all() -> None:
    with Mosquitto() as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            mosquitto.stop(signal.SIGKILL)
            await until(lambda: not broker.connected)
            (mosquitto.root / "mosquitto.db").unlink(missing_ok=True)
            mosquitto.start()
            heard: list[bytes] = []
            broker.subscribe(STATUS, 1, lambda message: heard.append(message.payload))
            await until(lambda: heard and heard[-1] == b"online")


async def test_a_broker_that_is_down_is_told_of_once_and_connected_to_when_it_comes() -> None:
    mosquitto = Mosquitto()
    told: list[Tell] = []
    attempts: list[None] = []
    with_attempts = session.explain

    def explain(*arguments: object) -> object:
        attempts.append(None)
        return with_attempts(*arguments)  # type: ignore[arg-type]

    session.explain = explain  # type: ignore[assignment]
    try:
        async with connecting(BrokerSettings(mosquitto.url), told) as broker:
            await until(lambda: len(attempts) >= 5, "tried again and again")
            assert broker.trouble is not None and broker.trouble.kind == "refused"
            assert [tell.kind for tell in told] == ["mqtt.trouble"]
            assert "nothing listens at" in told[0].text and "start the broker" in told[0].text
            with mosquitto:
                await until(lambda: broker.connected and broker.trouble is None)
                for _ in range(3):  # it flaps
                    mosquitto.stop()
                    await until(lambda: not broker.connected)
                    mosquitto.start()
                    await until(lambda: broker.connected)
            kinds = [(tell.kind, tell.fields.get("kind")) for tell in told]
            assert len(kinds) == len(set(kinds)), "each told once"
    finally:
        session.explain = with_attempts


async def test_a_wrong_password_is_told_with_the_way_out(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    told: list[Tell] = []
    with Mosquitto(users={"shoal": "right"}) as mosquitto:
        settings = BrokerSettings(mosquitto.url, user="shoal", password_file=str(password))
        async with connecting(settings, told) as broker:
            await until(lambda: broker.trouble is not None)
            assert broker.trouble is not None
            assert broker.trouble.kind in ("password", "authorized")
            assert "[mqtt.brokers.main]" in broker.trouble.fix
            password.write_text("right\n")  # which is read again
            await until(lambda: broker.connected)
        assert [tell.kind for tell in told] == ["mqtt.trouble", "mqtt.connected"]


async def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    settings = BrokerSettings("mqtt://127.0.0.1:1", user="x", password_file=f"{tmp_path}/none")
    async with connecting(settings) as broker:
        await until(lambda: broker.trouble is not None)
        assert (
            broker.trouble is not None and f"{tmp_path}/none: no such file" in broker.trouble.text
        )


async def test_tls_with_an_authority_of_its_own_and_a_client_certificate(tmp_path: Path) -> None:
    tls = Certificates(tmp_path / "right")
    other = Certificates(tmp_path / "wrong")
    with Mosquitto(tls=tls, client_certificates=True) as mosquitto:
        url = f"mqtts://127.0.0.1:{mosquitto.port}"
        own = {"cert_file": str(tls.client), "key_file": str(tls.client_key)}
        async with connected(BrokerSettings(url, ca_file=str(tls.ca), **own)) as broker:
            assert await publish(broker, Outgoing("a", b"1")) == ""
        async with connecting(BrokerSettings(url, ca_file=str(other.ca), **own)) as broker:
            await until(lambda: broker.trouble is not None)
            assert broker.trouble is not None and broker.trouble.kind == "certificate"
            assert "ca_file" in broker.trouble.fix
        async with connecting(BrokerSettings(url, ca_file=str(tls.ca))) as broker:
            await until(lambda: broker.trouble is not None)
            assert not broker.connected, "it has no certificate to show"


async def test_what_an_acl_denies_is_told_once_and_refused() -> None:
    told: list[Tell] = []
    acl = f"user shoal\ntopic read allowed/#\ntopic write allowed/#\ntopic {STATUS}\n"
    with Mosquitto(users={"shoal": "x"}, acl=acl) as mosquitto:
        login = mosquitto.root / "login"
        login.write_text("shoal\nx\n")
        settings = BrokerSettings(mosquitto.url, password_file=str(login))
        async with connected(settings, told) as broker:
            assert await publish(broker, Outgoing("allowed/a", b"1")) == ""
            assert "not authorized" in await publish(broker, Outgoing("denied/a", b"1"))
            await until(lambda: broker.connected, "this Mosquitto ends the connection over it")
            assert "not authorized" in await publish(broker, Outgoing("denied/a", b"2"))
            assert await publish(broker, Outgoing("allowed/a", b"1")) == ""
            assert mosquitto.log().count("Denied PUBLISH") == 1, "it is not tried again soon"
        assert [tell.kind for tell in told].count("mqtt.denied") == 1
        assert "not authorized" in broker.refusals["denied/a"]


async def test_answers_that_an_acl_denies_end_no_connection_but_their_own() -> None:
    """Whoever asks chooses another topic each time; and others are answered all the same."""
    told: list[Tell] = []
    states: list[bool] = []
    acl = f"user shoal\ntopic write replies/#\ntopic {STATUS}\n"
    with Mosquitto(users={"shoal": "x"}, acl=acl) as mosquitto:
        login = mosquitto.root / "login"
        login.write_text("shoal\nx\n")
        settings = BrokerSettings(mosquitto.url, password_file=str(login))
        brokers = Brokers({"main": settings}, PEER, "shoal/home", told.append, Random(1))
        brokers.watch(lambda _, connected: states.append(connected))
        broker = brokers.named("main")
        assert broker is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(brokers.run)
            await until(lambda: broker.connected)
            assert mosquitto.log().count("New client connected") == 1, "nobody has asked yet"
            for number in range(4):
                denied = Outgoing(f"elsewhere/{number}", b"x")
                assert await answer(broker, denied) == "not authorized"
                assert await answer(broker, Outgoing("replies/a", b"x")) == ""
                assert broker.trouble is None and broker.refusals == {}
            assert await answer(broker, denied) == "not authorized", "it is not tried again soon"
            assert mosquitto.log().count("Denied PUBLISH") == 4
            assert states == [True], "what all else goes by stands"
            assert [tell.kind for tell in told] == ["mqtt.connected"]
            nursery.cancel_scope.cancel()


async def test_answers_wait_for_their_connection_and_are_lost_with_the_main_one() -> None:
    """The outbox sends again what was on its way as that ends. A broker may let nobody in under
    their client id: that is a trouble of this device."""
    ending = trio.Event()

    async def broker_of_one(stream: trio.SocketStream) -> None:
        greeting = await stream.receive_some(1024)
        refused = b"-answers" in greeting
        await stream.send_all(b"\x20\x03\x00" + (b"\x85" if refused else b"\x00") + b"\x00")
        if not refused:
            await ending.wait()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, broker_of_one, [listener])
        port = listener.socket.getsockname()[1]
        async with connected(BrokerSettings(f"mqtt://127.0.0.1:{port}")) as broker:
            ends: list[str] = []
            assert broker.answer(Outgoing("replies/a", b"x"), ends.append)
            await until(lambda: broker.trouble is not None)
            assert ends == [] and broker.connected
            ending.set()
            await until(lambda: ends)
            assert ends == [LOST]
        nursery.cancel_scope.cancel()


async def test_a_filter_that_is_denied_is_the_subscriptions_problem_until_it_is_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Brokers that say 0x87; a Mosquitto of Debian 12 grants it and gives nothing."""
    monkeypatch.setattr(session, "DENIED_S", 0.2)
    told: list[Tell] = []
    asked: list[bytes] = []
    mended = False

    async def denying(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                while data:  # several that were sent at once; each is shorter than 128 bytes
                    packet, data = data[: data[1] + 2], data[data[1] + 2 :]
                    kind = packet[0] >> 4
                    if kind == 1:
                        await stream.send_all(b"\x20\x03\x00\x00\x00")
                    elif kind == 8:
                        asked.append(packet)
                        code = b"\x01" if mended else b"\x87"
                        await stream.send_all(b"\x90\x04" + packet[2:4] + b"\x00" + code)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, denying, [listener])
        port = listener.socket.getsockname()[1]
        async with connected(BrokerSettings(f"mqtt://127.0.0.1:{port}"), told) as broker:
            subscription = broker.subscribe("deaf/a", 1, lambda _: None, session="collect")
            spared = broker.subscribe("deaf/b", 1, lambda _: None, needed=False)
            await until(lambda: len(asked) >= 3, "asked again and again")
            assert subscription.problem == "not authorized" and not subscription.granted
            await until(lambda: spared.problem, "that is denied, too, and done without")
            assert broker.refusals == {"deaf/a": "not authorized"}
            assert [tell.kind for tell in told].count("mqtt.denied") == 1
            mended = True
            await until(lambda: subscription.granted)
            assert broker.refusals == {}
            subscription.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_session_gets_again_what_was_not_acknowledged(version: str) -> None:
    with Mosquitto() as mosquitto:
        settings = BrokerSettings(mosquitto.url, version)
        heard: list[Incoming] = []
        async with connected(settings) as broker:
            broker.subscribe("in/#", 1, heard.append, session="collect")
            await subscribed(mosquitto)
            for number in range(3):
                await publish(broker, Outgoing("in/a", b"%d" % number))
            await until(lambda: len(heard) == 3)
            heard[0].ack()
            heard[0].ack()  # which does nothing more
            await publish(broker, Outgoing("out", b""))  # behind the PUBACK
            await until(lambda: "Received PUBACK from" in mosquitto.log())
        async with connected(settings) as broker:
            again: list[Incoming] = []
            broker.subscribe("in/#", 1, again.append, session="collect")
            await until(lambda: len(again) == 2)
            assert [message.payload for message in again] == [b"1", b"2"]
            assert all(message.dup for message in again)
            await publish(broker, Outgoing("in/b", b"new"))
            await until(lambda: len(again) == 3)
            assert again[2].payload == b"new"


async def test_a_message_for_two_handlers_is_acknowledged_by_the_last() -> None:
    with Mosquitto() as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            one: list[Incoming] = []
            two: list[Incoming] = []
            broker.subscribe("a", 1, one.append)
            broker.subscribe("a", 1, two.append)
            await subscribed(mosquitto)
            await publish(broker, Outgoing("a", b"x"))
            await until(lambda: one and two)
            before = mosquitto.log().count("Received PUBACK")
            one[0].ack()
            await publish(broker, Outgoing("b", b""))
            assert mosquitto.log().count("Received PUBACK") == before
            two[0].ack()
            await until(lambda: mosquitto.log().count("Received PUBACK") == before + 1)


async def test_overlapping_filters_hear_a_message_once_each() -> None:
    with Mosquitto() as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            wide: list[Incoming] = []
            narrow: list[Incoming] = []
            broker.subscribe("a/#", 1, wide.append)
            broker.subscribe("a/b", 1, narrow.append)
            await subscribed(mosquitto, 2)
            for number in range(2):
                await publish(broker, Outgoing("a/b", b"%d" % number))
            await until(lambda: len(wide) >= 2 and len(narrow) >= 2)
            await publish(broker, Outgoing("a/c", b"end"))
            await until(lambda: wide[-1].payload == b"end")
            assert [message.payload for message in wide] == [b"0", b"1", b"end"]
            assert [message.payload for message in narrow] == [b"0", b"1"]


async def test_a_closed_subscription_hears_nothing_more_and_a_raising_handler_ends_nothing() -> (
    None
):
    def raising(message: Incoming) -> None:
        raise RuntimeError("a bug")

    with Mosquitto() as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            heard: list[Incoming] = []
            closed = broker.subscribe("a", 1, heard.append)
            broker.subscribe("b", 1, raising)
            broker.subscribe("c", 1, heard.append)
            await subscribed(mosquitto, 3)
            closed.close()
            closed.close()
            await until(lambda: "Sending UNSUBACK" in mosquitto.log())
            for topic in ("a", "b", "c"):
                await publish(broker, Outgoing(topic, b""))
            await until(lambda: heard)
            assert [message.topic for message in heard] == ["c"]
            assert broker.connected


async def test_a_burst_is_heard_whole_and_in_order() -> None:
    with Mosquitto() as mosquitto:
        settings = BrokerSettings(mosquitto.url)
        heard: list[bytes] = []

        def handler(message: Incoming) -> None:
            heard.append(message.payload)
            message.ack()

        async with (
            connected(settings) as broker,
            connected(settings, peer="sender-of-many") as sender,
        ):
            broker.subscribe("burst", 1, handler)
            await subscribed(mosquitto)
            for number in range(2000):
                message = Outgoing("burst", b"%d" % number)
                await until(lambda m=message: sender.publish(m, lambda _: None))  # type: ignore[misc]
            await until(lambda: len(heard) == 2000)
            assert heard == [b"%d" % number for number in range(2000)]


async def test_what_the_loop_does_not_take_in_time_comes_again_in_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is let go of comes with the next connection alone."""
    monkeypatch.setattr("agent.mqtt.client.WAITING_MAX", 4)
    monkeypatch.setattr("agent.mqtt.client.WAIT_S", 0.05)
    with Mosquitto() as mosquitto:
        told: list[Tell] = []
        heard: list[bytes] = []
        settings = BrokerSettings(mosquitto.url)
        async with connected(settings, told) as broker, connected(settings, peer="b") as sender:

            def handler(message: Incoming) -> None:
                if not heard:  # as a disk on which a commit takes long
                    client = broker._sessions["collect"]._client
                    end = time.monotonic() + 30
                    while client is not None and not client.dropped and time.monotonic() < end:
                        time.sleep(0.01)
                heard.append(message.payload)
                message.ack()

            broker.subscribe("burst", 1, handler, session="collect")
            await subscribed(mosquitto)
            numbers = [b"%d" % number for number in range(100)]
            for number in numbers:
                message = Outgoing("burst", number)
                await until(lambda m=message: sender.publish(m, lambda _: None))  # type: ignore[misc]
            await until(lambda: list(dict.fromkeys(heard)) == numbers)
            assert [t.fields["kind"] for t in told if t.kind == "mqtt.trouble"] == ["behind"]


async def test_large_messages_that_the_loop_does_not_take_wait_within_a_bound_and_all_come() -> (
    None
):
    """A camera's frames below a wide filter, while the loop is busy: none is lost over it."""
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "none") as sender:
        heard: list[int] = []
        most: list[int] = []
        frame = bytes(200 * 1024)
        async with connected(BrokerSettings(mosquitto.url)) as broker:

            def handler(message: Incoming) -> None:
                waiting = broker._sessions["collect"]._client
                end = time.monotonic() + 3.0
                while waiting is not None and not heard and time.monotonic() < end:
                    most.append(waiting._backlog.size_bytes)
                    time.sleep(0.05)
                heard.append(len(message.payload))
                message.ack()

            broker.subscribe("frames", 1, handler, session="collect")
            await subscribed(mosquitto, 2)
            for _ in range(20):
                sender.client.publish("frames", frame, 1)
            await until(lambda: len(heard) == 20)
            assert heard == [len(frame)] * 20
        assert WAITING_BYTES_MAX - len(frame) < max(most) <= WAITING_BYTES_MAX


@pytest.mark.parametrize(
    ("persistent", "qos", "heard"), [(True, 1, 0), (True, 0, 1), (False, 1, 1)]
)
async def test_what_a_session_will_be_sent_again_is_not_heard_of_a_connection_that_is_over(
    persistent: bool, qos: int, heard: int
) -> None:
    """Heard twice, it could run twice: what comes again says so, and this would not."""
    taken: list[Packet] = []
    made = Client(
        BrokerSettings("mqtt://127.0.0.1:1"), "me", persistent, None,
        lambda _, packet: taken.append(packet), lambda _: None,
    )  # fmt: skip
    made._on_packet(Packet("a", b"1", qos, False, False, 1))
    made.close()
    made._on_packet(Packet("a", b"2", qos, False, False, 2))
    await until(lambda: made._backlog.messages == 0)
    assert len(taken) == 2 * heard


async def test_what_was_on_its_way_when_the_broker_died_ends_with_why() -> None:
    with Mosquitto() as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            ends: list[str] = []
            assert mosquitto.process is not None
            mosquitto.process.send_signal(signal.SIGSTOP)
            sent = 0  # all there is room for beside its own `online`, where that is under way yet
            while broker.publish(Outgoing("a", b"x"), ends.append):
                sent += 1
            assert broker.room == 0 and sent >= IN_FLIGHT_MAX - 1
            mosquitto.stop(signal.SIGKILL)
            await until(lambda: not broker.connected)
            await until(lambda: len(ends) == sent)
            assert set(ends) == {"the connection was lost"}
            assert not broker.publish(Outgoing("a", b"x"), ends.append)


@pytest.mark.parametrize(("in_flight", "spare"), [(20, 8), (8, 8), (1, 8), (1, 0)])
async def test_room_is_left_for_results_as_far_as_the_broker_has_any(
    in_flight: int, spare: int
) -> None:
    with Mosquitto(more=f"max_inflight_messages {in_flight}") as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            assert broker.window == in_flight
            await until(lambda: broker.room == in_flight, "its own status is there")
            assert broker.has_room(spare)
            assert mosquitto.process is not None
            mosquitto.process.send_signal(signal.SIGSTOP)
            while broker.has_room(spare):
                assert broker.publish(Outgoing("a", b"x"), lambda _: None)
            assert broker.room == min(spare, in_flight - 1)
            mosquitto.stop(signal.SIGKILL)
            await until(lambda: not broker.connected)
            assert not broker.has_room(0)


async def test_a_broker_that_talks_garbage_ends_nothing() -> None:
    async def garbage(stream: trio.SocketStream) -> None:
        with trio.move_on_after(WAIT_S):
            await stream.receive_some(1024)
            await stream.send_all(b"\x20\xff\xff\xff\xff\xff\xff\x7f" + bytes(range(256)) * 4)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, garbage, [listener])
        port = listener.socket.getsockname()[1]
        async with connecting(BrokerSettings(f"mqtt://127.0.0.1:{port}")) as broker:
            await until(lambda: broker.trouble is not None)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("topic", ["a", "a/b", "+", "#", "a/+/b", "a/#", "/", "$SYS/#", "ä"])
def test_filters(topic: str) -> None:
    check_filter(topic)


@pytest.mark.parametrize("topic", ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a\0b", "x" * 1025])
def test_no_filters(topic: str) -> None:
    with pytest.raises(ValueError):
        check_filter(topic)


async def test_what_is_no_message_is_refused_and_ends_nothing() -> None:
    with Mosquitto() as mosquitto:
        async with connected(BrokerSettings(mosquitto.url)) as broker:
            assert "cannot be sent" in await publish(broker, Outgoing("a/+", b"x"))
            assert broker.refusals == {}
            assert await publish(broker, Outgoing("a", b"x")) == ""


def _tag(text: str) -> Properties:
    """A user property, as another client would send it."""
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    made.UserProperty = [("id", text)]
    return made


async def test_a_message_that_paho_cannot_read_is_heard_and_ends_no_session() -> None:
    """U+FEFF is allowed in MQTT; the session would be sent it again with each connection."""
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "none") as sender:
        heard: list[Incoming] = []

        def handler(message: Incoming) -> None:
            heard.append(message)
            message.ack()

        async with connected(BrokerSettings(mosquitto.url)) as broker:
            broker.subscribe("a", 1, handler, session="collect")
            await subscribed(mosquitto, 2)
            sender.client.publish("a", b"1", 1, properties=_tag("x\ufeffy"))
            sender.client.publish("a", b"2", 1)
            await until(lambda: len(heard) >= 2)
        assert [message.payload for message in heard] == [b"1", b"2"]
        assert heard[0].user_property("id") == "x\ufeffy"
        assert (
            mosquitto.log().count("-collect") and mosquitto.log().count("Sending PUBLISH to") == 2
        )


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_what_is_too_long_is_not_kept_and_the_next_message_is_heard(version: str) -> None:
    """Of 20 MiB a broker of MQTT 5 tells nobody; one of 3.1.1 knows no such bound."""
    with Mosquitto() as mosquitto, Listener(mosquitto.port, "none") as sender:
        heard: list[tuple[bytes, int]] = []

        def handler(message: Incoming) -> None:
            heard.append((message.payload[:9], message.left_out_bytes))
            message.ack()

        async with connected(BrokerSettings(mosquitto.url, version)) as broker:
            broker.subscribe("a", 1, handler, session="collect")
            await subscribed(mosquitto, 2)
            sender.client.publish("a", b"x" * (3 << 20), 1)
            sender.client.publish("a", b"x" * (20 << 20), 1)
            sender.client.publish("a", b"next", 1)
            longer = [] if version == "5" else [(b"", 20 << 20)]
            wanted = [(b"", 3 << 20), *longer, (b"next", 0)]
            await until(lambda: len(heard) >= len(wanted))
            await until(lambda: mosquitto.log().count("Received PUBACK") == len(wanted))
            assert heard == wanted
            assert broker.counters()["unreadable"] == 0


async def test_a_session_whose_messages_end_each_connection_begins_anew() -> None:
    """Whatever it is that a broker sends again and again, and nobody can read."""
    greetings: list[int] = []

    async def garbage(stream: trio.SocketStream) -> None:
        with trio.move_on_after(WAIT_S):
            greeting = await stream.receive_some(1024)
            greetings.append(greeting[9])  # the flags: 2 is a clean start
            await stream.send_all(b"\x20\x03\x00\x00\x00" + b"\xf0\x00")
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(1024)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, garbage, [listener])
        port = listener.socket.getsockname()[1]
        made = session.Session(
            "main", BrokerSettings(f"mqtt://127.0.0.1:{port}"), "me",
            persistent=True, will=None, changed=lambda *_: None, denied=lambda *_: None,
            unreadable=lambda _: None, rng=Random(1),
        )  # fmt: skip
        nursery.start_soon(made.run)
        await until(lambda: len(greetings) > session.UNREADABLE_MAX)
        assert [bool(flags & 2) for flags in greetings[: session.UNREADABLE_MAX + 1]] == [
            *[False] * session.UNREADABLE_MAX, True
        ]  # fmt: skip
        nursery.cancel_scope.cancel()


async def test_what_a_broker_retains_comes_once_to_a_session_and_not_with_each_connection() -> None:
    with Mosquitto() as mosquitto:
        settings = BrokerSettings(mosquitto.url)
        heard: list[tuple[bytes, bool]] = []

        def handler(message: Incoming) -> None:
            heard.append((message.payload, message.retain))
            message.ack()

        async with connected(settings) as broker:
            await publish(broker, Outgoing("a", b"kept", retain=True))
            broker.subscribe("a", 1, handler, session="collect")
            await until(lambda: heard == [(b"kept", True)])
            await until(lambda: "Received PUBACK" in mosquitto.log())
            for number in range(2):
                mosquitto.stop()
                await until(lambda: not broker.connected)
                mosquitto.start()
                await until(lambda: broker.connected)
                await subscribed(mosquitto, number + 2)
            await publish(broker, Outgoing("a", b"new"))
            await until(lambda: heard[-1] == (b"new", False))
        async with connected(settings) as broker:
            broker.subscribe("a", 1, handler, session="collect")
            await subscribed(mosquitto, 4)
            await publish(broker, Outgoing("a", b"newer"))
            await until(lambda: heard[-1] == (b"newer", False))
        # What an end keeps from being acknowledged comes again: the one that was retained
        # was acknowledged before the first of them.
        assert [retained for _, retained in heard] == [True, *[False] * (len(heard) - 1)]
        assert list(dict.fromkeys(payload for payload, _ in heard)) == [b"kept", b"new", b"newer"]


async def test_a_message_that_is_too_large_is_refused_and_not_its_topic() -> None:
    with Mosquitto(more="max_packet_size 2000") as mosquitto:
        told: list[Tell] = []
        async with connected(BrokerSettings(mosquitto.url), told) as broker:
            assert "larger than the 2000 bytes" in await publish(broker, Outgoing("a", b"x" * 2000))
            assert await publish(broker, Outgoing("a", b"x" * 1900)) == "", "just what fits"
            assert broker.refusals == {} and broker.connected
        assert [tell.kind for tell in told] == ["mqtt.connected"]


async def last_word(broker: Broker, message: Outgoing) -> str:
    """Of one that is sent again while it is only lost, or held."""
    with trio.fail_after(WAIT_S):
        while (problem := await publish(broker, message)) in (LOST, HELD):  # noqa: ASYNC110
            await trio.sleep(0.05)
    return problem


@pytest.fixture
def _soon_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("STEADY_S", 0.5), ("OTHERS_S", 0.1)):
        monkeypatch.setattr(suspects, name, seconds)
    monkeypatch.setattr("agent.mqtt.broker.STEADY_S", 0.6)


@pytest.mark.usefixtures("_soon_steady")
async def test_a_message_that_a_broker_ends_the_connection_over_is_found_out() -> None:
    """One of MQTT 3.1.1 has no way to say how much it takes."""
    with Mosquitto(more="max_packet_size 2000") as mosquitto:
        async with connected(BrokerSettings(mosquitto.url, "3.1.1")) as broker:
            assert await last_word(broker, Outgoing("a", b"x" * 2000)) == ENDS
            await until(lambda: broker.connected)
            ended = mosquitto.log().count("due to oversize packet")
            assert await publish(broker, Outgoing("a", b"x" * 2000)) == ENDS
            assert await last_word(broker, Outgoing("a", b"x" * 1900)) == ""
            assert broker.connected and broker.refusals == {}
            assert mosquitto.log().count("due to oversize packet") == ended < 2 * LOSSES_MAX


@pytest.mark.usefixtures("_soon_steady")
@pytest.mark.parametrize("qos", [0, 1])
async def test_a_topic_over_which_a_broker_ends_the_connection_is_found_out(qos: int) -> None:
    """One of MQTT 3.1.1 has no way to say that it is denied; it acknowledges it before that."""
    acl = "topic readwrite shoal/#\ntopic readwrite allowed/#\n"
    with Mosquitto(acl=acl) as mosquitto:
        async with connected(BrokerSettings(mosquitto.url, "3.1.1")) as broker:
            with trio.fail_after(WAIT_S):
                number, said = 0, ""
                while said != ENDS_TOPIC:
                    message = Outgoing("denied", b"%d" % number, qos)
                    said, number = await publish(broker, message), number + 1
                    await trio.sleep(0.05)
            await until(lambda: broker.connected)
            assert await publish(broker, Outgoing("denied", b"and more", qos)) == ENDS_TOPIC
            assert await publish(broker, Outgoing("allowed/a", b"1")) == ""
            assert mosquitto.log().count("Denied PUBLISH") <= LOSSES_MAX + TOPIC_MAX
            assert broker.refusals == {"denied": ENDS_TOPIC}


@pytest.mark.usefixtures("_soon_steady")
async def test_a_device_whose_status_is_denied_stays_connected() -> None:
    with Mosquitto(acl="topic readwrite allowed/#\n") as mosquitto:
        async with connecting(BrokerSettings(mosquitto.url, "3.1.1")) as broker:
            await until(lambda: STATUS in broker.refusals)
            await until(lambda: broker.connected)
            assert await publish(broker, Outgoing("allowed/a", b"1")) == ""
            assert mosquitto.log().count("Denied PUBLISH") < 2 * LOSSES_MAX


async def test_where_a_broker_says_that_it_shuts_down_no_message_is_blamed() -> None:
    async def broker_that_leaves(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                if data[0] == 0x10:
                    await stream.send_all(b"\x20\x03\x00\x00\x00")
                else:
                    await stream.send_all(b"\xe0\x02\x8b\x00")
                    return

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, broker_that_leaves, [listener])
        port = listener.socket.getsockname()[1]
        async with connected(BrokerSettings(f"mqtt://127.0.0.1:{port}")) as broker:
            for _ in range(LOSSES_MAX + 1):
                assert await publish(broker, Outgoing("a", b"x")) == LOST
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("closes", [True, False], ids=["closed", "silent"])
async def test_an_end_for_want_of_any_answer_is_over_no_message(version: str, closes: bool) -> None:
    """As where this device is out of the reach of its Wi-Fi."""

    async def broker_that_is_gone(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(1024)
            connack = b"\x20\x03\x00\x00\x00" if version == "5" else b"\x20\x02\x00\x00"
            await stream.send_all(connack)
            async for _ in stream:
                if closes:
                    return

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, broker_that_is_gone, [listener])
        url = f"mqtt://127.0.0.1:{listener.socket.getsockname()[1]}"
        client = Client(
            BrokerSettings(url, version, keepalive_s=1), "me", False, None, lambda *_: None, print
        )
        await client.connect()
        assert client.publish(Outgoing("a", b"x"), lambda _: None)
        with trio.fail_after(WAIT_S):
            await client.lasting()
        assert client.by_broker is closes
        client.close()
        nursery.cancel_scope.cancel()


async def _answers_little(stream: trio.SocketStream) -> None:
    """CONNECT and PINGREQ alone, as a proxy that loses the broker's answers."""
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            if data[0] == 0x10:
                await stream.send_all(b"\x20\x03\x00\x00\x00")
            elif data[-2:] == b"\xc0\x00":
                await stream.send_all(b"\xd0\x00")


@pytest.mark.parametrize("what", ["publish", "subscribe"])
async def test_a_connection_on_which_nothing_is_acknowledged_is_ended(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.mqtt.client.UNANSWERED_S", 0.5)
    troubles: list[str] = []
    ends: list[str] = []
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, _answers_little, [listener])
        port = listener.socket.getsockname()[1]
        made = session.Session(
            "main", BrokerSettings(f"mqtt://127.0.0.1:{port}"), "me",
            persistent=False, will=None, denied=lambda *_: None, unreadable=lambda _: None,
            changed=lambda _, trouble: troubles.append(trouble.text if trouble else ""),
            rng=Random(1),
        )  # fmt: skip
        if what == "subscribe":
            made.add("a", 1, lambda _: None)
        nursery.start_soon(made.run)
        await until(lambda: made.connected)
        if what == "publish":
            assert made.publish(Outgoing("a", b"x"), ends.append)
        await until(lambda: any("has not acknowledged" in text for text in troubles))
        assert ends == (["the connection was lost"] if what == "publish" else [])
        nursery.cancel_scope.cancel()


async def test_a_broker_that_says_who_took_the_connection_over_is_passed_on() -> None:
    """The broker under another name or port; a Mosquitto of Debian 12 just ends it."""

    async def broker_of_two(stream: trio.SocketStream) -> None:
        await stream.receive_some(1024)
        await stream.send_all(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(1024)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, broker_of_two, [listener])
        port = listener.socket.getsockname()[1]
        async with connecting(BrokerSettings(f"mqtt://127.0.0.1:{port}")) as broker:
            await until(lambda: broker.trouble is not None)
            assert broker.trouble is not None and broker.trouble.kind == "taken"
        nursery.cancel_scope.cancel()

"""The page's ACL, settings and commands with a real Mosquitto: who may do what, and not."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Self

import pytest
from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.firmware.pages import block
from tests.mosquitto import Mosquitto, free_port

PAGE = "provisioning.md"
WAIT_S = 30.0
USERS = {"porch": "p", "attic": "a", "agent": "g", "dashboard": "d", "watcher": "w"}
# Beside the page's: who sees that something was not only not heard, but not let through.
WATCHER = "\nuser watcher\ntopic readwrite #\n"
NUMBERS = count()


class Device:
    """A client under one name, which counts what it hears and how its messages were answered."""

    def __init__(
        self,
        port: int,
        user: str = "",
        password: str = "",
        protocol: MQTTProtocolVersion = MQTTv5,
    ) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.answers: list[int] = []
        self.granted: list[int] = []
        self.gone = threading.Event()
        self._there = threading.Event()
        self._port = port
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"test-{next(NUMBERS)}", protocol=protocol
        )
        if user:
            self.client.username_pw_set(user, password)
        self.client.on_connect = lambda *_: self._there.set()
        self.client.on_disconnect = lambda *_: self.gone.set()
        self.client.on_message = lambda _c, _u, message: self.heard.append(
            (message.topic, bytes(message.payload))
        )
        self.client.on_publish = lambda _c, _u, _m, reason, _p: self.answers.append(reason.value)
        self.client.on_subscribe = lambda _c, _u, _m, reasons, _p: self.granted.append(
            reasons[0].value
        )

    def __enter__(self) -> Self:
        self.client.connect("127.0.0.1", self._port, keepalive=30)
        self.client.loop_start()
        assert self._there.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def let_in(self) -> bool:
        """Whether the broker does, once."""
        try:
            self.client.connect("127.0.0.1", self._port, keepalive=30)
        except OSError:  # by TLS
            return False
        answers: list[bool] = []
        self.client.on_connect = lambda _c, _u, _f, reason, _p: answers.append(
            not reason.is_failure
        )
        self.client.on_disconnect = lambda *_: answers.append(False)
        self.client.loop_start()
        try:
            until(lambda: answers)
        finally:
            self.client.disconnect()
            self.client.loop_stop()
        return answers[0]

    def subscribe(self, topics: str) -> Self:
        before = len(self.granted)
        self.client.subscribe(topics, 1)
        until(lambda: len(self.granted) > before)
        return self

    def publish(self, topic: str, payload: bytes) -> None:
        """Until it is answered, or the broker ends the connection over it."""
        before = len(self.answers)
        self.gone.clear()
        self.client.publish(topic, payload, qos=1)
        until(lambda: len(self.answers) > before or self.gone.is_set())


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with Mosquitto(users=USERS, acl=block(PAGE, "acl") + WATCHER) as broker:
        yield broker


def device(broker: Mosquitto, user: str, protocol: MQTTProtocolVersion = MQTTv5) -> Device:
    return Device(broker.port, user, USERS[user], protocol)


@pytest.mark.parametrize(
    ("sender", "topic", "allowed"),
    [
        ("porch", "sensors/porch/reading", True),
        ("porch", "sensors/porch/status", True),
        ("porch", "sensors/attic/reading", False),
        ("porch", "sensors/reading", False),
        ("porch", "shoal/home/peer/x/status", False),
        ("porch", "elsewhere", False),
        ("attic", "sensors/attic/reading", True),
        ("dashboard", "shoal/home/peer/x/status", False),
        ("dashboard", "sensors/porch/reading", False),
        ("agent", "shoal/home/job/j/result/0", True),
        ("agent", "shoal/other/job/j/result/0", False),
    ],
)
def test_who_may_publish_what(broker: Mosquitto, sender: str, topic: str, allowed: bool) -> None:
    with device(broker, "watcher") as watcher, device(broker, sender, MQTTv311) as sends:
        watcher.subscribe("#")
        sends.publish(topic, b"it")
        watcher.publish("end", b"")
        until(lambda: ("end", b"") in watcher.heard)
        assert ((topic, b"it") in watcher.heard) == allowed


@pytest.mark.parametrize(
    ("user", "topics", "allowed"),
    [
        ("agent", "sensors/#", True),
        ("dashboard", "shoal/home/#", True),
        ("dashboard", "sensors/#", False),
        ("porch", "sensors/#", False),
        ("porch", "shoal/home/#", False),
    ],
)
def test_who_may_hear_what(broker: Mosquitto, user: str, topics: str, allowed: bool) -> None:
    """Mosquitto may grant a subscription and then deliver nothing: what counts is what is heard."""
    topic = topics.replace("#", "porch/x")
    with device(broker, user) as hears, device(broker, "watcher") as watcher:
        hears.subscribe(topics)
        watcher.subscribe(topics)
        watcher.publish(topic, b"it")
        until(lambda: (topic, b"it") in watcher.heard)
        if allowed:
            until(lambda: (topic, b"it") in hears.heard)
        # The answer to one more subscription comes after whatever was on its way.
        hears.subscribe("nothing/at/all")
        assert ((topic, b"it") in hears.heard) == allowed


def test_what_is_forbidden_shows_with_mqtt_5_and_not_with_3(broker: Mosquitto) -> None:
    with device(broker, "porch", MQTTv311) as old:
        old.publish("sensors/attic/reading", b"it")
        until(lambda: old.answers)  # that of Debian 12 ends the connection all the same
        assert old.answers == [0]
    with device(broker, "porch", MQTTv5) as new:
        new.publish("sensors/attic/reading", b"it")
        until(lambda: new.answers)
        assert new.answers[0] == 0x87


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's commands make."""
    root = tmp_path_factory.mktemp("authority")
    for name in ("ca", "client"):
        subprocess.run(
            ["bash", "-euc", block(PAGE, "sh", name)], check=True, cwd=root, capture_output=True
        )
    return root


def test_the_pages_commands_make_certificates_that_hold(authority: Path) -> None:
    check = ["openssl", "verify", "-CAfile", "ca.pem"]
    for words in (["-verify_hostname", "broker.home", "broker.pem"], ["porch.pem"]):
        run = subprocess.run([*check, *words], check=False, cwd=authority, capture_output=True)
        assert run.returncode == 0, run.stderr
    wrong = [*check, "-verify_hostname", "other.home", "broker.pem"]
    assert subprocess.run(wrong, check=False, cwd=authority, capture_output=True).returncode != 0


class Listener:
    """The listener of a block of the page, with this test's files, beside another that is open."""

    def __init__(self, authority: Path, root: Path, name: str) -> None:
        self.port = free_port()
        self.authority = authority
        with Mosquitto(users=USERS) as made:  # for its password file
            (root / "passwords").write_bytes((made.root / "passwords").read_bytes())
        (root / "acl").write_text(block(PAGE, "acl") + WATCHER)
        for file in ("ca.pem", "broker.pem", "broker.key"):
            (root / file).write_bytes((authority / file).read_bytes())
        text = block(PAGE, "conf", name).replace("/etc/mosquitto", str(root))
        assert "listener 8883\n" in text
        text = text.replace("listener 8883\n", f"listener {self.port} 127.0.0.1\n")
        # The first of the page says itself that nobody comes in without a name.
        self.broker = Mosquitto(users=USERS if name else None, more=text)

    def device(self, user: str = "", password: str = "", certificate: bool = False) -> Device:
        made = Device(self.port, user, password, MQTTv311)
        files = (
            [str(self.authority / f"porch.{end}") for end in ("pem", "key")] if certificate else []
        )
        made.client.tls_set(str(self.authority / "ca.pem"), *files)
        made.client.tls_insecure_set(True)  # the certificate is for broker.home
        return made


def test_the_pages_listener_lets_in_by_password(authority: Path, tmp_path: Path) -> None:
    listener = Listener(authority, tmp_path, "")
    with listener.broker, listener.device("watcher", USERS["watcher"]) as watcher:
        watcher.subscribe("#")
        with listener.device("porch", USERS["porch"]) as porch:
            porch.publish("sensors/attic/reading", b"foreign")
            porch.publish("sensors/porch/reading", b"own")
        until(lambda: watcher.heard)
        assert watcher.heard == [("sensors/porch/reading", b"own")]
        assert not listener.device("porch", "wrong").let_in()
        assert not listener.device().let_in()


def test_a_certificates_name_is_whom_the_acl_means(authority: Path, tmp_path: Path) -> None:
    listener = Listener(authority, tmp_path, "client")
    (tmp_path / "acl").write_text(block(PAGE, "acl") + "\nuser porch\ntopic read sensors/#\n")
    with listener.broker, listener.device(certificate=True) as hears:
        hears.subscribe("sensors/#")
        with listener.device(certificate=True) as porch:
            porch.publish("sensors/attic/reading", b"foreign")
            porch.publish("sensors/porch/reading", b"own")
        until(lambda: hears.heard)
        assert hears.heard == [("sensors/porch/reading", b"own")]
        assert not listener.device("porch", USERS["porch"]).let_in()  # without a certificate

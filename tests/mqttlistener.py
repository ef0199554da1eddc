"""Who listens at a broker in a test, and a way to the broker on which either side is not heard."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Heard:
    topic: str
    payload: bytes
    retain: bool
    properties: dict[str, str]
    correlation: bytes = b""
    content_type: str = ""
    qos: int = 1

    @property
    def id(self) -> str:
        return self.properties["id"]

    def json(self) -> Any:
        return json.loads(self.payload)


class Listener:
    """Hears all of some topics, over outages of the broker too: it has a session there. `login` is
    a user and a password, `ca` of whom the broker's certificate is."""

    def __init__(
        self,
        port: int,
        topics: str = "#",
        client_id: str = "listener",
        login: tuple[str, str] | None = None,
        ca: Path | None = None,
    ) -> None:
        self.heard: list[Heard] = []
        self._port = port
        self._subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5)
        if login is not None:
            self.client.username_pw_set(*login)
        if ca is not None:
            self.client.tls_set(str(ca))
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_connect = lambda *_: self.client.subscribe(topics, 1)
        self.client.reconnect_delay_set(0.1, 0.5)

    def _on_message(self, client: Client, data: object, message: MQTTMessage) -> None:
        properties = dict(getattr(message.properties, "UserProperty", ()))
        beside = message.properties
        correlation = bytes(getattr(beside, "CorrelationData", b""))
        content_type = str(getattr(beside, "ContentType", ""))
        payload, retain = bytes(message.payload), bool(message.retain)
        told = (properties, correlation, content_type, message.qos)
        self.heard.append(Heard(message.topic, payload, retain, *told))

    def __enter__(self) -> Self:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self.client.connect(
            "127.0.0.1", self._port, clean_start=False, keepalive=10, properties=properties
        )
        self.client.loop_start()
        assert self._subscribed.wait(WAIT_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def on(self, suffix: str) -> list[Heard]:
        """What came on topics that end so."""
        return [heard for heard in list(self.heard) if heard.topic.endswith(suffix)]

    def until(
        self,
        condition: Callable[[], Any],
        what: str | Callable[[], str],
        timeout_s: float = WAIT_S,
    ) -> Any:
        """`what` is waited for; where that is a function, it is asked when it did not come."""
        end = time.monotonic() + timeout_s
        while not (answer := condition()):
            if time.monotonic() > end:
                last = [(heard.topic, heard.payload[:80]) for heard in self.heard[-10:]]
                told = what if isinstance(what, str) else what()
                raise AssertionError(f"not within {timeout_s} s: {told}; heard last: {last}")
            time.sleep(0.02)
        return answer


class Holding:
    """A port that leads to the broker's; while it holds, nothing of what the broker says arrives,
    as on a network that loses PUBACKs. While it is muted, what is said to the broker is lost, and
    with it the connection that it was said on, as soon as who said it has gone."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._free = threading.Event()
        self._free.set()
        self.held = threading.Event()  # something that the broker has said since it holds
        self._muted = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        self.held.clear()
        self._free.clear()

    def mute(self) -> None:
        self._muted = True

    def let_go(self) -> None:
        self._muted = False
        self._free.set()

    def close(self) -> None:
        self.let_go()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5.0)
                    far.settimeout(None)
                except OSError:
                    near.close()
                    continue
                for pair in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        torn = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and not self._free.is_set():
                    self.held.set()
                    self._free.wait()
                torn = torn or (self._muted and not answers)
                if not torn:
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

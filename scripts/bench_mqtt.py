"""The bench of MQTT: from a message to the result it brings, results and lines a second, and what a
bridge holds in memory; beside bare paho through the same broker."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self

import psutil
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.client import IN_FLIGHT_MAX
from agent.mqtt.lines import SPARE
from protocol.config import OutboxConfig
from scripts.figures import Figure, quantile
from scripts.rival_mqtt import READY
from tests.lab import ROOT, Device, Lab, process_job
from tests.mosquitto import Mosquitto

WARM_UP: Final = 5
BLOCKS: Final = 4  # in turn, so that a drifting machine favours nobody
WAIT_S: Final = 150.0  # a device tries a broker that was long gone every minute or so
SETTLE_S: Final = 20.0
RESULTS: Final = 500
LINES: Final = 20_000
RATE_TIMES: Final = 3
PAYLOAD_BYTES: Final = 400  # about what a result of a small job takes as JSON
LINE_BYTES: Final = 5
OUT: Final = "bench/out"


def mqtt() -> list[Figure]:
    return [*_latency(), *_results(), *_lines(), *_memory()]


# ---- who listens ------------------------------------------------------------------------------


class Ear:
    """Hears all of a topic, and when each message came (perf_counter).

    What it asks goes over a connection of its own: on one, the acknowledgement of a question would
    hold the answer back for 40 ms (Nagle at the broker, delayed acknowledgements here).
    """

    def __init__(self, broker: Mosquitto, topic: str = OUT, name: str = "ear") -> None:
        self.heard: list[tuple[float, bytes]] = []
        self._came = threading.Condition()
        self._ready = threading.Event()
        self._port = broker.port
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda *_: self._client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._mouth = Client(CallbackAPIVersion.VERSION2, client_id=f"{name}-asks", protocol=MQTTv5)

    def __enter__(self) -> Self:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=properties)
        self._mouth.connect("127.0.0.1", self._port)
        for client in (self._client, self._mouth):
            client.loop_start()
        if not self._ready.wait(WAIT_S):
            raise RuntimeError("the broker takes no subscription")
        return self

    def __exit__(self, *exc: object) -> None:
        for client in (self._client, self._mouth):
            client.disconnect()
            client.loop_stop()

    def _on_message(self, client: Client, data: object, message: MQTTMessage) -> None:
        now = time.perf_counter()
        with self._came:
            self.heard.append((now, bytes(message.payload)))
            self._came.notify()

    def until(self, count: int, what: str) -> list[float]:
        """When the first `count` messages came; then all is forgotten."""
        with self._came:
            if not self._came.wait_for(lambda: len(self.heard) >= count, WAIT_S):
                raise RuntimeError(f"{len(self.heard)} of {count} {what} came")
            times = [at for at, _ in self.heard]
            self.heard.clear()
        return times

    def asked(self, topic: str, payload: bytes, name: str = "") -> float:
        """Seconds from a message to the answer that holds its payload."""
        properties = Properties(PacketTypes.PUBLISH)
        if name:
            properties.UserProperty = ("id", name)
        began = time.perf_counter()
        self._mouth.publish(topic, payload, qos=1, properties=properties)
        with self._came:
            if not self._came.wait_for(lambda: self._answer(payload), WAIT_S):
                raise RuntimeError(f"no answer to {payload!r} on {topic}: {self.heard}")
            at = self._answer(payload)
            self.heard.clear()
        return at - began

    def _answer(self, payload: bytes) -> float:
        return next((at for at, came in self.heard if came == payload), 0.0)


def _rate(times: list[float]) -> float:
    """Messages a second, from the first to the last."""
    return (len(times) - 1) / (times[-1] - times[0])


# ---- ours, and the rival ----------------------------------------------------------------------


def _bridged(broker: Mosquitto, *devices: Device) -> None:
    for device in devices:
        device.environment["SHOAL_MQTT_BROKERS"] = f"home={broker.url}"
        device.environment["SHOAL_MQTT_ALLOW"] = "template/*"


def _to_mqtt(**params: Any) -> dict[str, Any]:
    return {"Publisher": {"Type": "mqtt", "Params": {"Broker": "home", "Topic": OUT, **params}}}


def _template(lab: Lab, name: str, **mqtt: Any) -> str:
    """Have `cat` run for each message on the topic that is returned, once it is heard: where
    messages have ids, on every device with the broker."""
    topic = f"bench/{name}"
    engine = {"Type": "process", "Params": {"Command": ["cat"]}}
    spec = {
        "Name": name,
        "Type": "batch",
        "Parameters": [],
        "Trigger": {"Mqtt": {"Broker": "home", "Topic": topic, "Input": "stdin", **mqtt}},
        "Tasks": [{"Engine": engine, **_to_mqtt(Format="raw")}],
    }
    with lab[0].client() as client:
        client.submit(spec)
    bridged = [each for each in lab.devices if "SHOAL_MQTT_BROKERS" in each.environment]
    least = len(bridged) if "Dedup" in mqtt else 1
    lab.until(lambda: sum(topic in _broker_check(each)["text"] for each in bridged) >= least, topic)
    return topic


def _broker_check(device: Device) -> dict[str, Any]:
    with device.client() as client:
        return next(each for each in client.doctor() if each["check"] == "broker home")


@contextmanager
def _answering(broker: Mosquitto, topic: str) -> Iterator[None]:
    command = [sys.executable, "-m", "scripts.rival_mqtt", "answer", str(broker.port), topic, OUT]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != READY:
            raise RuntimeError("the rival does not start")
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _published(broker: Mosquitto, ear: Ear, count: int, size: int, window: int) -> float:
    """Messages a second of bare paho's, as they arrive."""
    words = ["publish", str(broker.port), OUT, str(count), str(size), str(window)]
    subprocess.run([sys.executable, "-m", "scripts.rival_mqtt", *words], check=True, cwd=ROOT)
    return _rate(ear.until(count, "of paho's messages"))


# ---- latency ----------------------------------------------------------------------------------


def _latency(n: int = 200) -> list[Figure]:
    """From a message to its result, of a template that runs `cat`: where one device hears it, and
    where all do since it has an id; beside a subscriber that runs `cat` and publishes."""
    times: dict[str, list[float]] = {"": [], "-with-id": [], "rival": []}
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto())
        lab = Lab(3)
        _bridged(broker, *lab.devices)
        stack.enter_context(lab)
        ear = stack.enter_context(Ear(broker))
        topics = {"": _template(lab, "plain"), "-with-id": _template(lab, "keyed", Dedup={})}
        stack.enter_context(_answering(broker, "bench/rival"))
        for block in range(BLOCKS + 1):  # the first is to warm up
            for name, found in times.items():
                topic = topics.get(name, "bench/rival")
                for number in range(n // BLOCKS if block else WARM_UP):
                    word = f"{name}{block}-{number}"
                    took = ear.asked(topic, word.encode(), word if name == "-with-id" else "")
                    found += [took] if block else []
    figures = []
    for name in ("", "-with-id"):
        for share, word in ((0.5, "p50"), (0.99, "p99")):
            value, rival = (quantile(times[each], share) * 1e3 for each in (name, "rival"))
            label = f"message{name}-to-result-3-peers-{word}"
            text = "beside a subscriber of paho's that runs it"
            figures.append(Figure(label, value, "ms", n, rival, value / rival, text))
    return figures


# ---- rates ------------------------------------------------------------------------------------


def _results() -> list[Figure]:
    """Results that waited for a broker, each of a job of its own, once it is back."""
    window = OutboxConfig().in_flight_max
    ours, theirs = [], []
    with Mosquitto() as broker, Lab(1) as lab:
        lab.kill(lab[0])
        _bridged(broker, lab[0])
        lab.start(lab[0])
        for _ in range(RATE_TIMES):
            with Ear(broker) as ear:
                theirs.append(_published(broker, ear, RESULTS, PAYLOAD_BYTES, window))
            ours.append(_drained(lab, broker))
    value, rival = statistics.median(ours), statistics.median(theirs)
    text = f"beside paho's with {window} in flight"
    return [Figure("results-drained-a-second", value, "1/s", RESULTS, rival, value / rival, text)]


def _drained(lab: Lab, broker: Mosquitto) -> float:
    task = _to_mqtt(Retain=False)
    broker.stop()
    with lab[0].client() as client:
        for number in range(RESULTS):
            spec = process_job("/bin/true", name=f"small{number}", Task=task)
            for line in client.run(spec, events=False):
                if "final" in line and line["final"]["state"] != "completed":
                    raise RuntimeError(f"the job failed: {line}")
    broker.start()
    with Ear(broker) as ear:
        return _rate(ear.until(RESULTS, "results"))


def _lines() -> list[Figure]:
    """Lines of a task that prints as fast as it can."""
    window = IN_FLIGHT_MAX - SPARE
    ours, theirs = [], []
    with Mosquitto() as broker, Ear(broker) as ear:
        lab = Lab(1)
        _bridged(broker, lab[0])
        with lab, lab[0].client() as client:
            lab.until(lambda: _broker_check(lab[0])["ok"], "the broker is connected to")
            for _ in range(RATE_TIMES):
                theirs.append(_published(broker, ear, LINES, LINE_BYTES, window))
                script = f"seq 10000 {10000 + LINES - 1}"
                client.submit(process_job("sh", "-c", script, Task=_to_mqtt(Lines=True)))
                ours.append(_rate(ear.until(LINES, "lines")))
    value, rival = statistics.median(ours), statistics.median(theirs)
    text = f"beside paho's with {window} in flight"
    return [Figure("lines-a-second", value, "1/s", LINES, rival, value / rival, text)]


# ---- memory -----------------------------------------------------------------------------------


def _memory() -> list[Figure]:
    """Two agents of four with a bridge that is connected and hears a trigger, and two without; all
    four keep its template."""
    with Mosquitto() as broker:
        lab = Lab(4)
        _bridged(broker, *lab.devices[:2])
        with lab:
            _template(lab, "idle", Dedup={})
            time.sleep(SETTLE_S)
            resident = [psutil.Process(d.pid).memory_info().rss / 1e6 for d in lab.devices]
    on, off = (statistics.mean(resident[2 * half : 2 * half + 2]) for half in (0, 1))
    return [Figure("idle-resident-with-mqtt", on, "MB", 2, off, on / off, "beside one without")]

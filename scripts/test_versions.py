"""scripts/test-versions: two versions in one shoal, each doing the other's work.

Two agents of each; what they are asked is what a person types, to the version's own command. Each
thing is tried both ways, and one that fails hinders none of the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from scripts.version import NoVersion, Version, exported, newest_tag, this_checkout
from tests.lab import Device, Done, Lab, LabError
from tests.mosquitto import Mosquitto
from tests.mqttlistener import Listener

WITHIN_S: Final = 60.0
PASSPHRASE: Final = "correct horse battery\n"
ROLES: Final = "compute,submit,operate"
# Reads what the other version has written down of the wire, with this one's code. `later` is no
# message of anybody's: what stands there may be at another field's place now.
READ_VECTORS: Final = """
import json, pathlib, sys
from tests.vectors.earlier import misread
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    for each in json.loads(path.read_text()):
        if "kind" in each and not each["name"].endswith(".later") and (why := misread(each)):
            print(why)
"""


class Failed(Exception):
    """What did not happen, in a sentence."""


class Trial:
    """One shoal of both versions: `old` and `new` hold two devices each."""

    def __init__(self, previous: Version, present: Version, lab: Lab, broker: Mosquitto) -> None:
        self.versions = {"old": previous, "new": present}
        self.lab = lab
        self.broker = broker
        self.devices: dict[str, Device] = {}
        self.failures = 0
        needed = ("agent/mqtt/listening.py", "protocol/outbox.py")  # triggers, and results out
        self.mqtt = all(each.has(path) for each in self.versions.values() for path in needed)

    def run(self) -> int:
        self.check("the previous version's vectors are read by this one", self.vectors)
        self.check("old joins new", self.join_new)
        if not self.check("new joins old", self.join):
            return 1
        for one, other in (("old", "new"), ("new", "old")):
            pair = (one, other)
            self.check(f"batch: accepted by {one}, run by {other}", self.batch, *pair)
            self.check(f"files: shipped by {one}, read by {other}", self.shipped, *pair)
            self.check(f"files: left by {other}, fetched at both", self.left, *pair)
            self.check(f"output: followed at {one}, written by {other}", self.follow, *pair)
            self.check(f"ops: {one} on every device", self.ops, one)
            self.check(f"daemon: of {one} everywhere, stopped and deleted", self.daemon, one)
            self.check(f"service: of {one} on two of {other}", self.service, *pair)
            self.check(f"takeover: {other} leads on when {one} is gone", self.takeover, *pair)
            self.check(f"template: of {one}, run at {other}", self.template, *pair)
            if self.mqtt:  # what both have
                self.check(f"MQTT: trigger of {one}, run and told by {other}", self.trigger, *pair)
        self.check("upgrade: new on old's data, tasks running on", self.upgrade)
        self.check("downgrade: old on new's data", self.downgrade)
        return 1 if self.failures else 0

    # ---- the ways to say it ------------------------------------------------------------------

    def check(self, what: str, call: Callable[..., str | None], *words: str) -> bool:
        began = time.monotonic()
        try:
            note = call(*words) or ""
        except Exception as error:  # one that fails hinders none of the others
            self.failures += 1
            known = isinstance(error, Failed | LabError)
            text = str(error) if known else traceback.format_exc()
            print(f"FAILED  {what}: {text}", flush=True)
            return False
        note = f": {note}" if note else ""
        print(f"ok      {what} ({time.monotonic() - began:.1f} s){note}", flush=True)
        return True

    def ask(self, device: str, *words: str, cwd: Path | None = None) -> str:
        """A command at a device, which has to succeed."""
        done = self.tried(device, *words, cwd=cwd)
        if done.code != 0:
            raise Failed(f"{device}: shoal {' '.join(words)}: {done.code}: {done.err or done.out}")
        return done.out

    def tried(self, device: str, *words: str, cwd: Path | None = None) -> Done:
        return self.lab.shoal(self.devices[device], *words, cwd=cwd)

    def told(self, device: str, *words: str) -> Any:
        return json.loads(self.ask(device, *words, "--json"))

    def until(self, holds: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
        end = time.monotonic() + within_s
        last = ""
        while time.monotonic() < end:
            try:
                if holds():
                    return
            except (Failed, LookupError, ValueError) as error:
                last = f" ({error})"
            time.sleep(0.1)
        raise Failed(f"not within {within_s:.0f} s: {what}{last}")

    def file(self, name: str, spec: dict[str, Any]) -> str:
        path = self.lab.directory / f"{name}.json"
        path.write_text(json.dumps(spec))
        return str(path)

    def views(self, device: str) -> list[dict[str, Any]]:
        listed = self.told(device, "job", "list", "--limit", "200")
        return list(listed["jobs"] if isinstance(listed, dict) else listed)

    def alive(self, device: str, other: str) -> bool:
        """Whether `device` holds `other` for alive."""
        peers = self.told(device, "peers")
        found = peers["peers"] if isinstance(peers, dict) else peers
        peer = self.devices[other].peer
        return any(each["id"] == peer and each["state"] == "alive" for each in found)

    # ---- what is tried -----------------------------------------------------------------------

    def vectors(self) -> str:
        previous, present = self.versions["old"], self.versions["new"]
        if not present.has("tests/vectors/earlier.py"):
            return "not tried: it cannot tell"
        done = subprocess.run(
            [present.python, "-c", READ_VECTORS, str(previous.root / "tests/vectors")],
            cwd=present.root, check=True, capture_output=True, text=True,
        )  # fmt: skip
        if done.stdout.strip():
            raise Failed(done.stdout.strip())
        return ""

    def join(self) -> None:
        """old1 makes the shoal, the others join at it."""
        self.make("old1")
        for name in ("new1", "old2", "new2"):
            self.admit(name, "old1")
        self.until(self.all_alive, "all hold all for alive")

    def join_new(self) -> None:
        """A shoal of its own, made by the new version, for a device of the old one."""
        self.make("new3")
        self.admit("old3", "new3")
        self.until(lambda: self.alive("old3", "new3") and self.alive("new3", "old3"), "both alive")
        for name in ("new3", "old3"):
            device = self.devices.pop(name)
            self.lab.power_off(device)
            self.lab.devices.remove(device)

    def make(self, name: str) -> None:
        device, phrase = self.device(name), self.lab.directory / "phrase"
        phrase.write_text(PASSPHRASE)
        words = ["--device", name, "--passphrase-file", str(phrase), *labels(name)]
        device.peer = self.told(name, "init", "home", *words)["peer"]
        self.lab.start(device, wait=False, bootstrap=False)
        self.until(lambda: self.ask(name, "peers"), f"{name} answers")

    def admit(self, name: str, at: str) -> None:
        token = self.ask(at, "invite", "--role", ROLES, *labels(name)).strip()
        device = self.device(name)
        device.peer = self.told(name, "join", token, "--name", name)["peer"]
        self.lab.start(device, wait=False, bootstrap=False)

    def device(self, name: str) -> Device:
        version = self.versions[name[:-1]]
        device = self.devices[name] = self.lab.blank(name)
        device.root, device.python = version.root, version.python
        if version.has("agent/mqtt"):
            device.environment["SHOAL_MQTT_BROKERS"] = f"home={self.broker.url}"
            device.environment["SHOAL_MQTT_ALLOW"] = "template/*"
        return device

    def all_alive(self) -> bool:
        names = list(self.devices)
        return all(self.alive(one, other) for one in names for other in names if one != other)

    def batch(self, one: str, other: str) -> None:
        out = self.ask(f"{one}1", "run", "--constraint", f"kind={other}", "--count", "2", "--",
                       "sh", "-c", "echo part $SHOAL_PARTITION_INDEX")  # fmt: skip
        if sorted(out.split("\n")) != ["", "[0] part 0", "[1] part 1"]:
            raise Failed(f"it printed {out!r}")

    def shipped(self, one: str, other: str) -> None:
        text = self.lab.directory / "text"
        text.write_text("one two three\n")
        where = ("--constraint", f"kind={other}")
        out = self.ask(f"{one}1", "run", "-f", str(text), *where, "--", "sh", "-c", "wc -w < text")
        if out.strip() != "3":
            raise Failed(f"it printed {out!r}")

    def left(self, one: str, other: str) -> str:
        """What is at a job's ResultPaths, fetched from where it ran by devices of both."""
        if "get" not in self.help(one, "job") or "get" not in self.help(other, "job"):
            return "not tried: one of them has no `shoal job get`"
        name = f"left-{one}"
        spec = self.spec(name, ["sh", "-c", "echo 3 > count"], Type="batch")
        spec["Constraints"] = [{"Key": "kind", "Operator": "=", "Values": [other]}]
        spec["Tasks"][0]["ResultPaths"] = [{"Name": "count", "Path": "count"}]
        self.ask(f"{one}1", "job", "run", self.file(name, spec), "--wait")
        for device in (f"{one}2", f"{other}1"):
            where = self.lab.directory / f"got-{one}" / device
            self.ask(device, "job", "get", name, "-o", str(where))
            found = [path.read_text() for path in where.rglob("*") if path.is_file()]
            if found != ["3\n"]:
                raise Failed(f"{device} fetched {found}")
        return ""

    def help(self, kind: str, command: str) -> str:
        return self.ask(f"{kind}1", command, "--help")

    def follow(self, one: str, other: str) -> None:
        name = f"talk-{one}"
        self.ask(f"{one}1", "run", "--detach", "--name", name, "--constraint", f"kind={other}",
                 "--", "sh", "-c", "echo first; sleep 1; echo last")  # fmt: skip
        for words in (("-f",), ()):
            out = self.ask(f"{one}2", "job", "logs", name, *words)
            if "first" not in out or "last" not in out:
                raise Failed(f"logs {words}: {out!r}")

    def ops(self, one: str) -> None:
        out = self.ask(f"{one}1", "exec", "--all", "--yes", "--", "echo", "here")
        missing = [name for name in self.devices if f"{name}: here" not in out]
        if missing:
            raise Failed(f"not on {', '.join(missing)}: {out!r}")

    def daemon(self, one: str) -> None:
        name = f"always-{one}"
        spec = self.spec(name, ["sleep", "600"], Type="daemon")
        self.ask(f"{one}1", "job", "run", self.file(name, spec))
        self.until(lambda: self.running(name) == len(self.devices), "it runs everywhere")
        other = "new1" if one == "old" else "old1"
        self.ask(other, "job", "stop", name, "--yes")
        self.until(lambda: self.running(name) == 0, "it is stopped everywhere")
        self.ask(other, "job", "delete", name, "--yes")

    def running(self, name: str) -> int:
        """Executions of a standing job that run, as each of two versions tells."""
        counts = []
        for device in ("old1", "new1"):
            view = self.told(device, "job", "describe", name)
            view = view.get("job", view)
            states = [part["state"] for part in view.get("parts") or view["slots"]]
            counts.append(sum(state in ("running", "starting") for state in states))
        if counts[0] != counts[1]:
            raise Failed(f"{name}: old1 and new1 see {counts} running")
        return counts[0]

    def service(self, one: str, other: str) -> None:
        name = f"held-{one}"
        spec = self.spec(name, ["sleep", "600"], Type="service", Count=2)
        spec["Constraints"] = [{"Key": "kind", "Operator": "=", "Values": [other]}]
        self.ask(f"{one}1", "job", "run", self.file(name, spec))
        self.until(lambda: self.running(name) == 2, "two run")
        self.ask(f"{other}1", "job", "stop", name, "--yes")
        self.until(lambda: self.running(name) == 0, "they are stopped")
        self.ask(f"{one}1", "job", "delete", name, "--yes")

    def takeover(self, one: str, other: str) -> None:
        """A job whose coordinator is killed in the middle of it."""
        name = f"led-{one}"
        device = self.devices[f"{one}2"]
        self.ask(f"{one}2", "run", "--detach", "--name", name, "--constraint", f"kind={other}",
                 "--", "sh", "-c", "sleep 8; echo done")  # fmt: skip
        watcher = f"{other}1"
        self.until(lambda: self.state(watcher, name) == "running", "it runs")
        self.lab.kill(device)
        try:
            self.until(lambda: self.state(watcher, name) == "completed", "it is led to its end")
        finally:
            self.lab.start(device, wait=False, bootstrap=False)
        self.until(self.all_alive, "all hold all for alive")

    def state(self, device: str, name: str) -> str:
        view = self.told(device, "job", "describe", name)
        return str(view.get("job", view)["state"])

    def template(self, one: str, other: str) -> None:
        name = f"blank-{one}"
        spec = self.spec(name, ["echo", "${word}"], Type="batch")
        spec["Parameters"] = [{"Name": "word"}]
        self.ask(f"{one}1", "template", "set", name, self.file(name, spec))
        self.until(lambda: name in self.ask(f"{other}1", "template", "list"), "it is known there")
        out = self.ask(f"{other}1", "template", "run", name, "-p", "word=hello", "--follow", "-q")
        if out.strip() != "hello":
            raise Failed(f"it printed {out!r}")

    def trigger(self, one: str, other: str) -> None:
        name, topic = f"heard-{one}", f"in/{one}"
        mqtt = {"Broker": "home", "Topic": topic, "Input": "stdin", "Dedup": {"Key": "id"}}
        spec = self.spec(name, ["cat"], Type="batch")
        spec |= {"Parameters": [], "Trigger": {"Mqtt": mqtt}}
        spec["Constraints"] = [{"Key": "kind", "Operator": "=", "Values": [other]}]
        params = {"Broker": "home", "Topic": f"out/{one}", "Format": "raw"}
        spec["Tasks"][0]["Publisher"] = {"Type": "mqtt", "Params": params}
        self.ask(f"{one}1", "template", "set", name, self.file(name, spec))
        # Its exit code is of other checks.
        hear = lambda: all(topic in self.tried(each, "doctor").out for each in self.devices)  # noqa: E731
        self.until(hear, "it is heard everywhere")
        with Listener(self.broker.port, f"out/{one}", f"listener-{one}") as listener:
            send(self.broker.port, topic, [json.dumps({"id": f"{one}{n}"}) for n in range(4)])
            listener.until(lambda: len({each.payload for each in listener.heard}) == 4, "4 results")
        for device in ("old1", "new1"):
            runs = [view for view in self.views(device) if view["name"] == name]
            runs = [view for view in runs if view.get("source")]
            if len(runs) != 4:
                raise Failed(f"{device} knows {len(runs)} runs of 4 messages")

    # ---- one device, two versions ------------------------------------------------------------

    def upgrade(self) -> str:
        return self.changed("old2", "new")

    def downgrade(self) -> str:
        return self.changed("new2", "old")

    def changed(self, name: str, to: str) -> str:
        """The other version is started on a device's data: it goes on, or refuses in a sentence."""
        daemon = f"over-{name}"
        self.ask(
            "new1",
            "job",
            "run",
            self.file(daemon, self.spec(daemon, ["sleep", "600"], Type="daemon")),
        )
        self.until(lambda: self.running(daemon) == len(self.devices), "a daemon runs")
        before = self.part(name, daemon)
        device, version = self.devices[name], self.versions[to]
        assert device.process is not None
        device.process.terminate()
        device.process.wait(30)
        device.process = None
        device.root, device.python = version.root, version.python
        done = self.tried(name, "config", "show")
        self.lab.start(device, wait=False, bootstrap=False)
        try:
            self.until(lambda: self.ask(name, "peers"), "it answers")
        except Failed:
            said = device.log().strip().split("\n")[-1]
            if device.process is not None and device.process.poll() not in (None, 0):
                device.process = None
                return f"refused: {said}"
            raise Failed(f"neither up nor refused: {done.err} {device.log()[-2000:]}") from None
        self.until(self.all_alive, "all hold all for alive")
        self.until(lambda: self.part(name, daemon)["state"] == "running", "its daemon runs")
        after = self.part(name, daemon)
        out = self.ask(name, "run", "--constraint", f"device={name}", "--", "echo", "still")
        if out.strip() != "still":
            raise Failed(f"it printed {out!r}")
        same = after["execution"] == before["execution"]
        if not same:
            raise Failed(
                f"its task was not taken over: {before['execution']}, {after['execution']}"
            )
        self.ask("new1", "job", "delete", daemon, "--yes")
        return "it works, and its tasks ran on"

    def part(self, name: str, daemon: str) -> dict[str, Any]:
        view = self.told(name, "job", "describe", daemon)
        parts = view.get("job", view)["parts"]
        return next(part for part in parts if part["peer"] == self.devices[name].peer)

    def spec(self, name: str, command: list[str], **more: Any) -> dict[str, Any]:
        engine = {"Type": "process", "Params": {"Command": command}}
        return {"Name": name, **more, "Tasks": [{"Name": "main", "Engine": engine}]}


def labels(name: str) -> list[str]:
    return ["--label", f"kind={name[:-1]}", "--label", f"device={name}"]


def send(port: int, topic: str, payloads: list[str]) -> None:
    """At QoS 1; the broker has them when it returns."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for payload in payloads:
        client.publish(topic, payload, 1).wait_for_publish(WITHIN_S)
    client.disconnect()
    client.loop_stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("previous", nargs="?", metavar="PREVIOUS")
    parser.add_argument("present", nargs="?", metavar="PRESENT")
    parser.add_argument("--shared", action="store_true", help="one environment for both")
    arguments = parser.parse_args()
    previous = arguments.previous or newest_tag()
    if not previous:
        print(
            "There is no tag before HEAD yet, so there is no previous version: name a revision, "
            "scripts/test-versions REVISION",
            file=sys.stderr,
        )
        return 2
    try:
        old = exported(previous, arguments.shared)
        new = this_checkout()
        if arguments.present:
            new = exported(arguments.present, arguments.shared)
    except NoVersion as error:
        print(error, file=sys.stderr)
        return 2
    print(f"old: {old.name} ({old.commit[:12]}), new: {new.name} ({new.commit[:12]})", flush=True)
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto())
        lab = Lab(0)
        stack.callback(lab.close)
        return Trial(old, new, lab, broker).run()


if __name__ == "__main__":
    raise SystemExit(main())

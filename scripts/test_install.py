"""scripts/test-install: the service as people have it, under a real systemd."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.nspawn import Container
from scripts.trial import SCRIPT, Trial, made_bundle

EXPOSURE_MAX: Final = 4.0  # of `systemd-analyze security`
INSTALL_S: Final = 120.0  # an offline bundle's promise
LATENCY_RUNS: Final = 60
RUN_TRUE: Final = """
import time
from agent.client import Client
task = {"Name": "main", "Engine": {"Type": "process", "Params": {"Command": ["/bin/true"]}}}
client, taken = Client(PATH), []
for _ in range(RUNS):
    began = time.perf_counter()
    assert list(client.run({"Type": "batch", "Name": "nothing", "Tasks": [task]}, events=False))
    taken.append((time.perf_counter() - began) * 1000)
print(sorted(taken)[RUNS // 2])
"""
IN_ITS_GROUP: Final = """
import os, pathlib, trio
from contextlib import aclosing
from agent.engines.cgroups import Cgroups
from agent.engines.process import ProcessEngine
from agent.engines.spawner import Spawner
from agent.engines.task import TaskLaunch
async def main():
    root = pathlib.Path("/var/lib/shoal/trial")
    spawner = Spawner(pathlib.Path("/run/shoal-tasks.sock"))
    cgroups = Cgroups("trial", 2, (pathlib.Path("/sys/fs/cgroup/shoal"),))
    engine = ProcessEngine(root, spawner.user(), cgroups=cgroups, spawner=spawner)
    script = "cat /proc/self/cgroup; echo; while [ ! -e go ]; do sleep 0.1; done"
    await engine.start(TaskLaunch("e1", ("/bin/sh", "-c", script)))
    async with aclosing(engine.log("e1", "stdout", 0, -1, True)) as output:
        await anext(output)
    print(await engine.run_beside("e1", ("sh", "-c", "touch go; grep ^0: /proc/self/cgroup")))
    ended = await engine.wait("e1")
    print(ended.code, ended.detail, (await engine.tails("e1", 20))[0].data.decode())
    await engine.clear("e1")
    await engine.remove("e1")
trio.run(main)
"""


KEEPING: Final = """
Name: keeping
Type: batch
Retry: {Attempts: 2, Backoff: 1s, On: [failure]}
Tasks:
  - Volumes: [{Name: data, Target: /kept}]
    Engine:
      Type: process
      Params: {Command: [sh, -c, "test -e kept/before && stat -Lc %U kept || ! touch kept/before"]}
"""
NOTHING_WASM: Final = bytes.fromhex(  # (module (func (export "_start")))
    "0061736d01000000 010401600000 03020100 070a01065f737461727400 00 0a040102000b"
)
INVITER: Final = "/opt/inviter/bin/python -m agent.cli.entry --data-dir /root/inviter"
BROKER: Final = """
listener 1883 127.0.0.1
allow_anonymous false
password_file /opt/broker.passwords
"""
AT_BROKER: Final = """
[mqtt.brokers.home]
url = "mqtt://127.0.0.1"
credential = "home"
"""
OWED: Final = """
Name: owed
Type: batch
Tasks:
  - Publisher: {Type: mqtt, Params: {Broker: home, Topic: owed/result, Retain: true}}
    Engine: {Type: process, Params: {Command: [echo, owed]}}
"""
HEARD: Final = """
from paho.mqtt import subscribe
login = {"username": "agent", "password": "s3cret"}
print(subscribe.simple("owed/result", qos=1, hostname="127.0.0.1", auth=login).payload.decode())
"""
OWN_PLACES: Final = """
set -e; cd "$HOME"; made=$(mktemp); echo "print(6 * 7)" >own.py; cp own.py "$made"
python3 ./own.py; python3 "$HOME/own.py"; python3 "$made"; ls /home"""
ALONE: Final = """
Name: alone
Type: batch
Tasks:
  - Network: {Type: None}
    Engine:
      Type: process
      Params: {Command: [sh, -c, "readlink /proc/self/ns/net; id -un; touch $HOME/x $TMPDIR/x"]}
"""
DEAF: Final = """
Name: deaf
Type: batch
Tasks:
  - Engine:
      Type: process
      Params: {Command: [sh, -c, "trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done"]}
"""
STATUS: Final = """/opt/shoal/current/bin/python -c '
import json
from agent.client import Client
print(json.dumps(Client("/run/shoal/shoal.sock").status()))'"""


class BundleTrial(Trial):
    """From an offline bundle, on a machine without a network."""

    machine: Container

    def __init__(self, machine: Container, bundle: Path) -> None:
        super().__init__(machine)
        shutil.copy(bundle, machine.root / "root/shoal.tar.gz")
        self.before = self.everything()

    # ---- what is tried -----------------------------------------------------------------------

    def a_dry_run_prints_all_and_does_nothing(self) -> None:
        told = self.install("--user", "pi", "--dry-run")
        assert "useradd" in told and "systemctl restart shoal.service" in told, told
        assert self.everything() == self.before

    def a_bundle_installs_without_network_and_compiler(self) -> None:
        assert not self.machine.ask("command -v gcc cc pip")
        assert self.machine.ask("ls /sys/class/net") == "lo"
        began = time.monotonic()
        told = self.install("--user", "pi")
        taken = time.monotonic() - began
        assert taken < INSTALL_S and "done: Shoal" in told, told
        self.figures["installed from the bundle, service up"] = f"{taken:.0f} s"

    def systemd_finds_nothing_wrong(self) -> None:
        units = "shoal.service shoal-tasks.service shoal-tasks.socket shoal-token.service"
        done = self.machine.run(f"systemd-analyze verify {units}")
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), done
        told = self.machine.ask("systemd-analyze security --no-pager shoal.service")
        exposure = float(re.findall(r"exposure level for shoal.service: ([0-9.]+)", told)[0])
        assert exposure <= EXPOSURE_MAX, told
        self.figures["systemd-analyze security shoal.service"] = f"{exposure}"

    def it_waits_and_says_for_what(self) -> None:
        refused = self.machine.run("shoal init home", "guest")
        assert refused.returncode == 3 and "usermod -aG shoal" in refused.stderr, refused
        lost = self.machine.run("shoal peers", "pi")
        assert lost.returncode == 1 and "shoal join TOKEN" in lost.stderr, lost
        assert "waits for" in self.machine.ask("systemctl status shoal")

    def a_member_of_the_group_has_it_init(self) -> None:
        wrong = self.machine.run("shoal init 'no spaces'", "pi")
        assert wrong.returncode == 2 and "the shoal's name" in wrong.stderr, wrong
        began = time.monotonic()
        self.shoal("init home --backup root.backup")
        assert self.machine.ask("stat -c %U:%a /home/pi/root.backup") == "pi:600"
        self.machine.until(self.answers)
        self.figures["from init to an agent that takes jobs"] = f"{time.monotonic() - began:.1f} s"
        again = self.machine.run("shoal init other", "pi")
        assert again.returncode == 1 and "'home' already" in again.stderr, again

    def a_task_is_apart_from_the_service(self) -> None:
        look = (
            "id -un; grep -c . /proc/self/mountinfo; cat /proc/self/cgroup | grep ^0;"
            "grep -E 'CapEff|NoNewPrivs|Seccomp_filters' /proc/self/status; touch /var/tmp/mine;"
            "cat /var/lib/shoal/identity.key; exit 0"
        )
        told = self.machine.run(f'shoal run -q -- sh -c "{look}"', "pi")
        user, mounts, group, *rest = told.stdout.split("\n")
        assert user == "shoal-task" and group.startswith("0::/shoal/"), told
        assert int(mounts) == int(self.machine.ask("grep -c . /proc/1/mountinfo")), told
        rights = dict(line.split(":\t") for line in rest if line)
        plain = self.machine.ask("grep Seccomp_filters /proc/1/status").split("\t")[1]
        assert rights == {"CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp_filters": plain}, told
        assert "Permission denied" in told.stderr and self.machine.ask("ls /var/tmp/mine"), told

    def a_task_is_in_a_group_of_its_own(self) -> None:
        (self.machine.root / "opt/group.py").write_text(IN_ITS_GROUP)
        told = self.machine.do("runuser -u shoal -- /opt/shoal/current/bin/python /opt/group.py")
        beside, own, *_ = told.splitlines()
        assert beside == "(0, '0::/shoal/trial-e1')", told
        assert own.startswith("0 ") and "0::/shoal/trial-e1" in told, told
        self.machine.do("rm -r /opt/group.py /var/lib/shoal/trial")
        within = f"nsenter -t {self.pid('shoal')} -m runuser -u shoal --"  # what the agent sees
        self.machine.do(f"{within} mkdir /sys/fs/cgroup/shoal/trial")
        self.machine.do(f"{within} rmdir /sys/fs/cgroup/shoal/trial")
        assert self.machine.run(f"{within} mkdir /sys/fs/cgroup/trial").returncode != 0
        assert self.machine.run(f"{within} touch /var/tmp/x /opt/x").returncode != 0

    def a_task_reaches_its_own_places_by_name(self) -> None:
        told = self.shoal(f"run -q -- sh -c '{OWN_PLACES}'").splitlines()
        assert told == ["42", "42", "42", "guest", "pi"], told

    def a_program_without_a_network_has_none(self) -> None:
        (self.machine.root / "home/pi/alone.yaml").write_text(ALONE)
        network, user = self.shoal("job run -q --follow alone.yaml").splitlines()
        assert network.startswith("net:") and user == "shoal-task", (network, user)
        assert network != self.machine.ask("readlink /proc/1/ns/net")

    def every_program_is_in_a_sandbox_where_that_is_asked_for(self) -> None:
        place = "/run/systemd/system/shoal.service.d"
        setting = "[Service]\\nEnvironment=SHOAL_TASK_SANDBOX=always\\n"
        self.machine.do(f"mkdir -p {place} && printf '{setting}' >{place}/test.conf")
        self.machine.do("systemctl daemon-reload && systemctl restart shoal")
        self.machine.until(self.answers)
        told = self.shoal(f"run -q -- sh -c '{OWN_PLACES}'").splitlines()
        assert told == ["42", "42", "42"], "it sees no home"
        doctor = self.machine.ask("shoal doctor", "pi")
        assert "every program runs in a sandbox of bubblewrap" in doctor, doctor
        self.machine.do(f"rm -r {place} && systemctl daemon-reload && systemctl restart shoal")
        self.machine.until(self.answers)

    def what_a_program_keeps_is_there_the_next_time(self) -> None:
        (self.machine.root / "home/pi/keeping.yaml").write_text(KEEPING)
        told = self.shoal("job run -q --follow keeping.yaml")
        assert told == "shoal-task", told

    def a_task_outlives_what_becomes_of_the_agent(self) -> None:
        script = "while [ ! -e /var/tmp/go ]; do sleep 0.1; done; exit 7"
        told = self.machine.do(
            f"shoal run --json --detach -- sh -c '{script}' 2>&1 || true", "pi"
        )  # fmt: skip
        job = json.loads(told.splitlines()[0])["job"]
        each = "for f in /var/lib/shoal/executions/*/task"
        alive = f"{each}; do read pid rest <$f; kill -0 $pid && echo $pid; done"
        self.machine.until(lambda: self.machine.ask(alive).isdigit())
        task = int(self.machine.ask(alive))
        for what, act in self.troubles():
            act()
            self.machine.until(self.answers)
            self.machine.do(f"kill -0 {task}")
            state = json.loads(self.shoal(f"job describe {job} --json"))["state"]
            assert state == "running", f"{what}: {state}"
            print(f"     after {what}: pid {task} runs")
        self.machine.do("touch /var/tmp/go")
        done = self.machine.run(f"shoal job wait {job}", "pi")
        assert done.returncode == 7, done
        self.machine.do("rm /var/tmp/go")

    def troubles(self) -> list[tuple[str, Callable[[], object]]]:
        machine = self.machine
        return [
            ("a restart", lambda: machine.do("systemctl restart shoal")),
            ("kill -9 of the agent", lambda: self.killed("shoal")),
            ("a restart of what starts tasks", lambda: machine.do("systemctl restart shoal-tasks")),
            ("kill -9 of what starts tasks", lambda: self.killed("shoal-tasks")),
            ("a frozen agent, ended by the watchdog", self.frozen),
            ("the same version again", lambda: self.install("--user", "pi")),
            ("an upgrade", self.upgraded),
            ("a way back that cannot run", self.not_rolled_back),
            ("a way back that does not start", self.rolled_back_badly),
            ("a rollback", self.rolled_back),
            ("an upgrade that does not start", self.upgraded_badly),
        ]

    def killed(self, unit: str) -> None:
        pid = self.pid(unit)
        self.machine.do(f"kill -9 {pid}")
        self.machine.until(lambda: self.pid(unit) not in (0, pid))

    def frozen(self) -> None:
        place = "/run/systemd/system/shoal.service.d"
        setting = "[Service]\\nWatchdogSec=6s\\n"
        self.machine.do(f"mkdir -p {place} && printf '{setting}' >{place}/test.conf")
        self.machine.do("systemctl daemon-reload && systemctl restart shoal")
        pid = self.pid("shoal")
        # It lives for longer than the watchdog's time first: it is patted.
        alive_until = time.monotonic() + 8
        while time.monotonic() < alive_until:
            assert self.pid("shoal") == pid
            time.sleep(0.5)
        self.machine.do(f"kill -STOP {pid}")
        self.machine.until(lambda: self.pid("shoal") not in (0, pid))
        self.machine.do(f"rm -r {place} && systemctl daemon-reload && systemctl restart shoal")

    def remade(self, name: str, edit: str) -> str:
        """A bundle of another version, changed by a line for a shell within it."""
        made = f"/root/{name}"
        self.machine.do(
            f"rm -rf {made} && mkdir {made} && tar -xzf /root/shoal.tar.gz -C {made} && "
            f"cd {made}/* && sed -i 's/^digest=.*/digest={name}/' BUNDLE && {edit} && "
            f"tar -C {made} -czf {made}.tar.gz ."
        )
        return f"{made}.tar.gz"

    def current(self) -> str:
        return self.machine.do("basename $(readlink /opt/shoal/current)")

    def upgraded(self) -> None:
        self.first = self.current()
        bundle = self.remade("newer", "echo >>README.md")
        self.install("--bundle", bundle, "--user", "pi")
        assert self.current().endswith("-newer")

    def not_rolled_back(self) -> None:
        """As after an upgrade of Debian in place: it was made for another Python."""
        pid, newer = self.pid("shoal"), self.current()
        self.machine.do("mv /opt/shoal/previous/bin/python /opt/shoal/previous/bin/gone")
        done = self.machine.run("/opt/shoal/current/install --rollback 2>&1")
        self.machine.do("mv /opt/shoal/previous/bin/gone /opt/shoal/previous/bin/python")
        assert done.returncode == 1 and "cannot run here any more" in done.stdout, done
        assert (self.pid("shoal"), self.current()) == (pid, newer)

    def rolled_back_badly(self) -> None:
        newer = self.current()
        unit = "/opt/shoal/previous/systemd/shoal.service"
        self.machine.do(f"sed -i.kept s,^ExecStart=.*,ExecStart=/bin/false, {unit}")
        done = self.machine.run("/opt/shoal/current/install --rollback 2>&1")
        self.machine.do(f"mv {unit}.kept {unit}")
        assert done.returncode == 1 and f"this device runs {newer}, as before" in done.stdout, done
        assert self.current() == newer

    def rolled_back(self) -> None:
        self.machine.do("/opt/shoal/current/install --rollback")
        assert self.current() == self.first

    def upgraded_badly(self) -> None:
        edit = "sed -i s,^ExecStart=.*,ExecStart=/bin/false, scripts/systemd/shoal.service"
        bundle = self.remade("broken", edit)
        done = self.machine.run(f"/root/unpacked/scripts/install --bundle {bundle} 2>&1")
        assert done.returncode == 1 and "does not start" in done.stdout, done
        assert self.current() == self.first

    def a_task_starts_as_fast_as_under_root(self) -> None:
        """Beside an agent of root's that starts its tasks itself, on the same machine."""
        python = "/opt/shoal/current/bin/python"
        (self.machine.root / "opt/run.py").write_text(RUN_TRUE)
        self.machine.do("shoal --data-dir /root/own init own >/dev/null")
        listen = "--no-mdns --listen /ip4/127.0.0.1/tcp/0"
        self.machine.do(f"systemd-run --unit=own shoal --data-dir /root/own up {listen} 2>&1")
        self.machine.until(lambda: self.machine.ask("ls /root/own/shoal.sock"))
        taken: dict[str, list[float]] = {"/run/shoal/shoal.sock": [], "/root/own/shoal.sock": []}
        for _ in range(3):  # in turns: the machine is not ours alone
            for path, found in taken.items():
                head = f"PATH, RUNS = {path!r}, {LATENCY_RUNS}"
                (self.machine.root / "opt/one.py").write_text(head + RUN_TRUE)
                found.append(float(self.machine.do(f"{python} /opt/one.py")))
        service, root = (min(found) for found in taken.values())
        self.machine.do("systemctl stop own; rm -r /root/own /opt/run.py /opt/one.py")
        self.figures["no-op job, service / root's own agent"] = f"{service:.1f} / {root:.1f} ms"

    def it_comes_back_after_a_reboot(self) -> None:
        self.machine.reboot()
        self.machine.until(self.answers)

    def the_doctor_is_content(self) -> None:
        told = self.machine.run("shoal doctor", "pi")
        assert told.returncode == 0 and "bad " not in told.stdout, told
        for name in ("certificate", "clock", "disk", "ports", "mdns", "tasks"):
            assert f" {name}: " in told.stdout, told
        assert "-> " in told.stdout, "there is no time server, and the way out is told"

    def webassembly_runs_where_it_was_asked_for(self) -> None:
        """Its child is the tasks' user from the beginning, and compiles outside the hardening."""
        self.install("--wasm", "--user", "pi")
        (self.machine.root / "home/pi/nothing.wasm").write_bytes(NOTHING_WASM)
        self.machine.until(self.answers)
        assert "wasm" in self.shoal("peer describe")
        for _ in range(2):  # compiled, and as it was compiled before
            self.shoal("wasm run -q nothing.wasm")

    def an_upgrade_takes_nothing_away(self) -> None:
        self.install("--s3", "--user", "pi")
        bundle = self.remade("later", "echo >>README.md")
        told = self.install("--bundle", bundle, "--user", "pi")
        assert self.current().endswith("-later-wasm-s3"), told
        self.machine.do("/opt/shoal/current/bin/python -I -c 'import minio, wasmtime'")
        self.machine.until(self.answers)
        self.shoal("wasm run -q nothing.wasm")

    def what_another_python_left_is_made_anew(self) -> None:
        """As after an upgrade of Debian in place, which brings one of another version."""
        bundle = "/root/later.tar.gz"
        self.machine.do("mv /opt/shoal/current/lib/python3.* /opt/shoal/current/lib/python3.0")
        told = self.install("--bundle", bundle, "--user", "pi")
        assert "is here already" not in told, told
        self.machine.until(self.answers)
        assert "is here already" in self.install("--bundle", bundle, "--user", "pi")
        self.machine.until(self.answers)

    def what_a_broker_is_owed_outlives_a_reboot(self) -> None:
        """A result, and the broker's password that systemd hands over, with nobody to ask."""
        machine, python = self.machine, "/opt/shoal/current/bin/python"
        place, secret = "/etc/systemd/system/shoal.service.d", "/etc/shoal/home.login"
        (machine.root / "opt/heard.py").write_text(HEARD)
        machine.do("mosquitto_passwd -b -c /opt/broker.passwords agent s3cret")
        machine.do("chown mosquitto /opt/broker.passwords")
        machine.put("/opt/broker.conf", BROKER)
        machine.do(f"umask 077; printf 'agent\\ns3cret\\n' >{secret}")
        machine.do(f"mkdir -p {place}; cp /etc/shoal/config.toml /opt/config.before")
        machine.put(f"{place}/broker.conf", f"[Service]\nLoadCredential=home:{secret}\n")
        config = (machine.root / "etc/shoal/config.toml").read_text()
        machine.put("/etc/shoal/config.toml", config + AT_BROKER)
        (machine.root / "home/pi/owed.yaml").write_text(OWED)
        machine.do("systemctl daemon-reload && systemctl restart shoal")
        machine.until(self.answers)
        job = json.loads(self.shoal("job run --json owed.yaml"))["job"]
        machine.until(lambda: '"completed"' in self.shoal(f"job describe {job} --json"))
        machine.reboot()
        machine.do("systemd-run --unit=broker mosquitto -c /opt/broker.conf 2>&1")
        heard = json.loads(machine.do(f"{python} /opt/heard.py"))
        assert heard["job"] == job and "owed" in heard["stdout"], heard
        machine.until(self.answers)
        told = machine.ask("shoal doctor", "pi")
        assert "broker" in told and "bad " not in told, told
        machine.do(f"systemctl stop broker; rm -r {place}/broker.conf {secret} /opt/*broker* ")
        machine.do("rm /opt/heard.py; mv /opt/config.before /etc/shoal/config.toml")
        machine.do("systemctl daemon-reload && systemctl restart shoal")
        machine.until(self.answers)

    def uninstall_keeps_what_it_knows(self) -> None:
        self.machine.do("cp -a /opt/shoal/current/. /opt/inviter")
        (self.machine.root / "home/pi/deaf.yaml").write_text(DEAF)
        self.shoal("job run deaf.yaml")
        self.machine.until(lambda: self.machine.ask("pgrep -u shoal-task -f sleep"))
        told = self.machine.do("/opt/shoal/current/install --uninstall 2>&1")
        assert not self.machine.ask("ps -o args= -u shoal-task"), told
        assert "is kept" in told and self.machine.ask("ls /var/lib/shoal/identity.key")
        assert not self.machine.ask("ls /opt/shoal /usr/local/bin/shoal 2>/dev/null")
        assert "is kept" in self.machine.do(f"{SCRIPT} --uninstall 2>&1"), "once more is no harm"
        self.install("--user", "pi")
        self.machine.until(self.answers)
        assert '"shoal_name": "home"' in self.machine.ask(STATUS)

    def purge_leaves_nothing(self) -> None:
        """Nor what got away from its supervisor, whose user could not be deleted."""
        as_task = "setpriv --reuid shoal-task --regid shoal-task --clear-groups setsid"
        self.machine.do(f"{as_task} sleep 1h >/dev/null 2>&1 </dev/null &")
        self.machine.until(lambda: self.machine.ask("pgrep -u shoal-task sleep"))
        told = self.machine.do("/opt/shoal/current/install --uninstall --purge 2>&1")
        told += self.machine.do(f"{SCRIPT} --uninstall --purge 2>&1")
        lines = self.everything().splitlines()
        after = "\n".join(line for line in lines if "/opt/inviter" not in line)
        assert after == self.before, f"{told}\n{set(after.split()) ^ set(self.before.split())}"

    def invited(self) -> str:
        """A token of another device, which is the same machine with another directory."""
        if not self.machine.ask("ls /root/inviter/membership 2>/dev/null"):
            self.machine.do(f"{INVITER} init yard")
            self.serve_inviter()
        return self.machine.do(f"{INVITER} invite 2>/dev/null")

    def serve_inviter(self) -> None:
        listen = "--no-mdns --listen /ip4/127.0.0.1/tcp/4848"
        self.machine.do(f"systemd-run --unit=inviter {INVITER} up {listen} 2>&1")
        self.machine.until(lambda: self.machine.run(f"{INVITER} peers").returncode == 0)

    def a_member_of_the_group_has_it_join(self) -> None:
        token = self.invited()
        self.install("--user", "pi")
        told = self.shoal(f"join {token}")
        assert "joined the shoal yard as garage" in told, told
        self.machine.until(self.answers)
        assert "already" in self.shoal(f"join {token}")
        self.machine.do("/opt/shoal/current/install --uninstall --purge 2>&1")

    def a_token_on_the_card_joins_at_the_first_boot(self) -> None:
        (self.machine.root / "boot/firmware/shoal.token").write_text(self.invited() + "\n")
        self.install("--user", "pi")
        self.machine.until(self.answers)
        self.machine.until(lambda: not self.machine.ask("ls /boot/firmware"))
        assert "alive" in self.shoal("peers"), "it sees who invited it"

    def a_token_written_to_the_card_later_joins_at_the_next_boot(self) -> None:
        """By the unit's own order at boot; who invited it is there half a minute later."""
        token = self.invited()
        self.machine.do("/opt/shoal/current/install --uninstall --purge 2>&1")
        self.install("--user", "pi")
        self.machine.power_off()
        (self.machine.root / "boot/firmware/shoal.token").write_text(token + "\n")
        self.machine.boot()
        told = "journalctl -b --no-pager -u shoal-token"
        self.machine.until(lambda: "Failed with result" in self.machine.ask(told))
        assert self.machine.ask("ls /boot/firmware"), "it is kept until it has served"
        self.serve_inviter()
        self.machine.until(self.answers, 120)
        self.machine.until(lambda: not self.machine.ask("ls /boot/firmware"))
        assert "alive" in self.shoal("peers"), "it sees who invited it"


TRIED: Final = (
    BundleTrial.a_dry_run_prints_all_and_does_nothing,
    BundleTrial.a_bundle_installs_without_network_and_compiler,
    BundleTrial.systemd_finds_nothing_wrong,
    BundleTrial.it_waits_and_says_for_what,
    BundleTrial.a_member_of_the_group_has_it_init,
    BundleTrial.a_task_is_apart_from_the_service,
    BundleTrial.a_task_is_in_a_group_of_its_own,
    BundleTrial.a_task_reaches_its_own_places_by_name,
    BundleTrial.a_program_without_a_network_has_none,
    BundleTrial.every_program_is_in_a_sandbox_where_that_is_asked_for,
    BundleTrial.what_a_program_keeps_is_there_the_next_time,
    BundleTrial.a_task_outlives_what_becomes_of_the_agent,
    BundleTrial.a_task_starts_as_fast_as_under_root,
    BundleTrial.the_doctor_is_content,
    BundleTrial.webassembly_runs_where_it_was_asked_for,
    BundleTrial.an_upgrade_takes_nothing_away,
    BundleTrial.what_another_python_left_is_made_anew,
    BundleTrial.it_comes_back_after_a_reboot,
    BundleTrial.what_a_broker_is_owed_outlives_a_reboot,
    BundleTrial.uninstall_keeps_what_it_knows,
    BundleTrial.purge_leaves_nothing,
    BundleTrial.a_member_of_the_group_has_it_join,
    BundleTrial.a_token_on_the_card_joins_at_the_first_boot,
    BundleTrial.a_token_written_to_the_card_later_joins_at_the_next_boot,
)


def main(argv: list[str]) -> int:
    bundle = Path(argv[0]) if argv else made_bundle()
    with Container() as machine:
        return 0 if BundleTrial(machine, bundle).run(TRIED) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

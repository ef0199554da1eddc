"""scripts/test-vm: the service on a machine with a kernel of its own.

What no container shows: limits by control groups of version 2 from their very root, a clock that is
wrong at boot, and power that is cut.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from scripts.trial import Trial, made_bundle
from scripts.vm import VirtualMachine

LONG_AGO: Final = "2019-01-01"
SOON_S: Final = 240.0  # where the processor is emulated, and not ours alone
GREEDY: Final = "head -c 700000000 /dev/zero | tail -c 600000000 | wc -c; exit 137"
BOMB: Final = """
import os, signal, sys
count = 0
try:
    while count < 2000:
        if not os.fork():
            signal.pause()
        count += 1
except OSError as error:
    print(count, error.strerror)
sys.exit(3)
"""
BOMB_OF_ASH: Final = "i=0; while [ $i -lt 2000 ]; do sleep 300 & i=$((i+1)); echo $i; done"
BUSY: Final = "taskset -c 0 sh -c 'while :; do :; done'"
CPU_S: Final = 6.0  # used by the larger of two, until their shares are compared
USED: Final = """cd /sys/fs/cgroup/shoal && for group in *-*/; do  # and not that of supervisors
    grep -q . "$group/cgroup.procs" 2>/dev/null || continue
    echo "$(cat $group/cpu.weight) $(grep usage_usec $group/cpu.stat)"
done"""
IMAGE: Final = "local:1"
MADE: Final = f"""set -e; mkdir -p /opt/image/bin /opt/image/tmp; cp /bin/busybox /opt/image/bin/
for name in sh sleep echo cat head tail wc id touch; do ln -sf busybox /opt/image/bin/$name; done
tar -C /opt/image -c . | docker import - {IMAGE}"""
MINUTELY: Final = """
Name: minutely
Type: batch
Schedule: {Cron: "* * * * *"}
Tasks:
  - Engine: {Type: process, Params: {Command: [date]}}
"""
KEEPER: Final = """
Name: keeper
Type: daemon
Tasks:
  - Engine: {Type: process, Params: {Command: [sleep, "100001"]}}
"""
BOXED: Final = f"""
Name: boxed
Type: daemon
Tasks:
  - Engine: {{Type: docker, Params: {{Image: "{IMAGE}", Parameters: [sleep, "100002"]}}}}
"""
ONCE: Final = """
Name: once
Type: ops
Tasks:
  - Engine: {Type: process, Params: {Command: [sleep, "100004"]}}
"""
# None of them syncs a disk: that would bring to it what the agent has to by itself.
AGAIN: Final = "test $SHOAL_ATTEMPT -gt 1 || exec sleep 100003; echo again"


class KernelTrial(Trial):
    machine: VirtualMachine

    def __init__(self, machine: VirtualMachine, bundle: Path) -> None:
        super().__init__(machine)
        machine.send("/root/shoal.tar.gz", bundle.read_bytes())

    def job(self, words: str) -> str:
        """A job's id, once it was acknowledged."""
        told = self.shoal(f"{words} 2>&1")
        return str(json.loads(told.splitlines()[0])["job"])

    def ran(self, words: str) -> tuple[int, str]:
        """The exit code of a job and all that is told about it, once it has ended."""
        job = self.job(words)
        code = self.machine.run(f"shoal job wait {job}", "pi").returncode
        return code, self.shoal(f"job describe {job}")

    def doctor(self) -> str:
        return self.machine.run("shoal doctor", "pi").stdout

    # ---- a wrong clock ------------------------------------------------------------------------

    def its_kernel_is_as_on_a_device(self) -> None:
        machine = self.machine
        assert machine.do("stat -f -c %T /sys/fs/cgroup") == "cgroup2fs"
        assert machine.do("stat -c %a /sys/fs/cgroup") == "555", "in containers it is 755"
        boot = Path("/proc/sys/kernel/random/boot_id")
        assert machine.do(f"cat {boot}") != boot.read_text().strip()
        self.figures["the machine"] = f"{machine.do('uname -r')}, {' '.join(machine.accelerated)}"

    def a_bundle_installs_where_the_clock_is_wrong(self) -> None:
        said = int(self.machine.do("cat /sys/class/rtc/rtc0/since_epoch"))
        assert said < datetime(2019, 1, 2, tzinfo=UTC).timestamp(), said
        began = time.monotonic()
        told = self.install("--docker", "--user", "pi")
        assert "done: Shoal" in told, told
        self.figures["installed from the bundle"] = f"{time.monotonic() - began:.0f} s"

    def it_takes_jobs_where_the_clock_is_wrong(self) -> None:
        self.shoal("init home --backup root.backup")
        self.machine.until(self.answers, SOON_S)
        assert self.shoal("run -q -- id -un") == "shoal-task"
        assert "the time cannot be trusted" in self.doctor()
        assert "unknown" in self.shoal("peers --labels shoal/clock"), "others see it"

    def a_schedule_waits_for_the_time_and_says_so(self) -> None:
        self.machine.put("/home/pi/minutely.yaml", MINUTELY)
        told = self.shoal("job run minutely.yaml 2>&1")
        assert "it waits: the time is not known here" in told, told
        assert "minutely" not in [each["name"] for each in self.runs()]

    def runs(self) -> list[dict[str, Any]]:
        """Batch jobs that ended here."""
        jobs = json.loads(self.shoal("jobs --json"))["jobs"]
        return [each for each in jobs if each["state"] == "completed"]

    def it_is_well_once_the_clock_is_set(self) -> None:
        self.set_clock()
        assert "the time cannot be trusted" in self.doctor(), "whoever types a time may be wrong"
        self.machine.do("hwclock --systohc")
        self.machine.until(lambda: "kept by its own hardware clock" in self.doctor(), SOON_S)
        fired = lambda: "minutely" in [each["name"] for each in self.runs()]  # noqa: E731
        self.machine.until(fired, SOON_S)
        self.shoal("job delete minutely --yes")
        self.machine.until(
            lambda: "unknown" not in self.shoal("peers --labels shoal/clock"), SOON_S
        )

    def set_clock(self) -> None:
        self.machine.do(f"date -s @{time.time():.0f}")

    # ---- limits of programs ---------------------------------------------------------------------

    def a_program_that_wants_too_much_memory_is_ended(self) -> None:
        assert "held to their memory" in self.doctor()
        for asked, given in (("64Mi", 256), ("300Mi", 300)):
            code, told = self.ran(f"run --json --detach --memory {asked} -- sh -c '{GREEDY}'")
            assert code == 137, told
            assert f"out of memory: it may have {given} MiB, see Resources.Memory" in told, told
        code, told = self.ran("run --json --detach -- sh -c 'kill -KILL $$'")
        assert "out of memory" not in told and "ended by SIGKILL" in told, told

    def a_program_has_its_share_of_a_busy_processor(self) -> None:
        jobs = [self.job(f"run --json --detach --cpu {cpu} -- {BUSY}") for cpu in ("100m", "1")]
        self.machine.until(lambda: len(self.used()) == 2, SOON_S)
        before = self.used()
        self.machine.until(lambda: self.used()[100] - before[100] > CPU_S, SOON_S)
        after = self.used()
        for job in jobs:
            self.shoal(f"job stop {job} --yes 2>&1")
        ratio = (after[100] - before[100]) / (after[10] - before[10])
        assert 7 < ratio < 14, (before, after)
        self.figures["processor of 1 core and 100m beside each other"] = f"{ratio:.1f} : 1"

    def used(self) -> dict[int, float]:
        """Seconds of processor by the weight of their group, where something runs."""
        rows = [line.split() for line in self.machine.ask(USED).splitlines()]
        return {int(weight): int(used) / 1e6 for weight, _, used in rows if weight in ("10", "100")}

    def a_bomb_of_processes_stops_at_512(self) -> None:
        self.machine.put("/home/pi/bomb.py", BOMB)
        job = self.job("run --json --detach -f bomb.py -- python3 bomb.py")
        assert self.machine.run(f"shoal job wait {job}", "pi").returncode == 3
        count, *why = self.shoal(f"logs {job}").split(maxsplit=1)
        assert 505 <= int(count) < 512 and why == ["Resource temporarily unavailable"], (count, why)
        self.machine.until(lambda: not self.machine.ask("pgrep -u shoal-task"), SOON_S)
        self.machine.until(lambda: not self.machine.ask("ls -d /sys/fs/cgroup/shoal/*-*"), SOON_S)

    # ---- containers -----------------------------------------------------------------------------

    def a_container_runs_by_the_service(self) -> None:
        self.machine.do(MADE)
        assert "docker" in self.machine.do("id -nG shoal").split()
        self.machine.until(lambda: "ok   docker" in self.doctor(), SOON_S)
        assert self.shoal(f"docker run -q {IMAGE} id -u") == "0"
        assert self.machine.do("docker info -f '{{.CgroupVersion}}'") == "2"

    def a_container_that_wants_too_much_memory_is_ended(self) -> None:
        run = f"docker run --json --detach --memory 64Mi {IMAGE} sh -c"
        code, told = self.ran(f"{run} '{GREEDY}'")
        assert code == 137, told
        assert "out of memory: it may have 64 MiB, see Resources.Memory" in told, told
        code, told = self.ran(f"{run} 'exit 137'")
        assert code == 137 and "out of memory" not in told, told

    def a_container_has_its_processes_and_processor(self) -> None:
        job = self.job(f"docker run --json --detach {IMAGE} sh -c '{BOMB_OF_ASH}'")
        assert self.machine.run(f"shoal job wait {job}", "pi").returncode == 2
        count = int(self.shoal(f"logs {job} 2>/dev/null").splitlines()[-1])
        assert 505 <= count < 512, count
        busy = f"docker run --json --detach --cpu 200m {IMAGE} sh -c 'while :; do :; done'"
        job = self.job(busy)
        group = "/sys/fs/cgroup/system.slice/docker-*.scope"
        self.machine.until(
            lambda: (
                "nr_throttled 0"
                not in (self.machine.ask(f"cat {group}/cpu.stat") or "nr_throttled 0")
            ),
            SOON_S,
        )
        assert self.machine.do(f"cat {group}/cpu.max") == "20000 100000"
        self.shoal(f"job stop {job} --yes 2>&1")

    # ---- power ----------------------------------------------------------------------------------

    def what_was_acknowledged_outlives_the_power(self) -> None:
        self.cut("utc")

    def and_where_the_clock_is_wrong_after_that(self) -> None:
        """As on every board without a battery: the time goes back with the power."""
        self.cut(LONG_AGO)

    def cut(self, clock: str) -> None:
        machine = self.machine
        for name, spec in (("keeper", KEEPER), ("boxed", BOXED), ("once", ONCE)):
            machine.put(f"/home/pi/{name}.yaml", spec)
        for name in ("keeper", "boxed"):
            self.shoal(f"job run {name}.yaml")
        again = self.job(f"run --json --detach -- sh -c '{AGAIN}'")
        once = self.job("job run --json once.yaml")
        for number in range(100001, 100005):
            machine.until(lambda n=number: machine.ask(f"pgrep -fx 'sleep {n}'"), SOON_S)
        told = self.job("run --json --detach -- echo told")
        assert self.shoal(f"logs -f {told}") == "told"
        late = self.job("run --json --detach -- echo late")
        lost = machine.cut_power()
        machine.clock = clock
        machine.boot()
        began = time.monotonic()
        machine.until(self.answers, SOON_S)
        for number in (100001, 100002):
            machine.until(lambda n=number: machine.ask(f"pgrep -fx 'sleep {n}'"), SOON_S)
        self.figures[f"after a power cut, with the clock at {clock}"] = (
            f"{lost >> 10} KiB were lost in the disk's cache; daemons ran "
            f"{time.monotonic() - began:.0f} s after the system did"
        )
        for job, output in ((again, "again"), (late, "late"), (told, "told")):
            done = machine.run(f"shoal job wait --timeout 4m {job}", "pi")
            assert done.returncode == 0, (done, self.shoal(f"job describe {job}"))
            assert self.shoal(f"logs {job}") == output, self.shoal(f"job describe {job}")
        ran = json.loads(self.shoal(f"job executions --json {again}"))["executions"]
        assert 2 in [each["attempt"] for each in ran], ran
        machine.until(lambda: "unknown" in self.shoal(f"job executions {once}"), SOON_S)
        assert not machine.ask("pgrep -fx 'sleep 100004'"), "what is not to run twice does not"
        told_by = self.doctor()
        assert "whole at the start" in told_by, told_by
        assert ("the time cannot be trusted" in told_by) is (clock != "utc"), told_by


TRIED: Final = (
    KernelTrial.its_kernel_is_as_on_a_device,
    KernelTrial.a_bundle_installs_where_the_clock_is_wrong,
    KernelTrial.it_takes_jobs_where_the_clock_is_wrong,
    KernelTrial.a_schedule_waits_for_the_time_and_says_so,
    KernelTrial.it_is_well_once_the_clock_is_set,
    KernelTrial.a_program_that_wants_too_much_memory_is_ended,
    KernelTrial.a_program_has_its_share_of_a_busy_processor,
    KernelTrial.a_bomb_of_processes_stops_at_512,
    KernelTrial.a_container_runs_by_the_service,
    KernelTrial.a_container_that_wants_too_much_memory_is_ended,
    KernelTrial.a_container_has_its_processes_and_processor,
    KernelTrial.what_was_acknowledged_outlives_the_power,
    KernelTrial.and_where_the_clock_is_wrong_after_that,
)


def main(argv: Sequence[str]) -> int:
    bundle = Path(argv[0]) if argv else made_bundle()
    with VirtualMachine(LONG_AGO) as machine:
        return 0 if KernelTrial(machine, bundle).run(TRIED) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

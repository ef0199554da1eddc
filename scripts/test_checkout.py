"""scripts/test-checkout: the service from a checkout, on the newest Debian, over the network."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import time
from itertools import pairwise
from typing import Final

from scripts.machine import ROOT
from scripts.nspawn import Container
from scripts.trial import Trial

SUITE: Final = "trixie"
EXPOSURE_MAX: Final = 4.0  # of `systemd-analyze security`
INSTALL_S: Final = 900.0  # the network is not ours alone
PLACE: Final = "/home/pi/shoal"
# It shares the network of whoever runs this, and is to speak to nobody there.
ALONE: Final = 'mdns = false\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n'


class CheckoutTrial(Trial):
    machine: Container

    def checked_out(self) -> None:
        """What is committed, as `git clone` leaves it."""
        tree = subprocess.run(
            ["git", "archive", "--format=tar", "HEAD"], cwd=ROOT, check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
            archive.extractall(self.machine.root / PLACE.lstrip("/"), filter="data")
        self.machine.do(f"chown -R pi: {PLACE}")

    # ---- what is tried -----------------------------------------------------------------------

    def a_checkout_installs_what_it_needs(self) -> None:
        self.checked_out()
        began = time.monotonic()
        done = self.machine.run(f"{PLACE}/scripts/install --user pi 2>&1", within_s=INSTALL_S)
        assert done.returncode == 0 and "done: Shoal" in done.stdout, done.stdout[-4000:]
        self.figures["installed from a checkout, service up"] = f"{time.monotonic() - began:.0f} s"
        assert self.machine.ask(f"find {PLACE} -newer /etc/shoal/config.toml") == "", (
            "it is as it was"
        )

    def it_takes_a_job(self) -> None:
        config = self.machine.root / "etc/shoal/config.toml"
        config.write_text(ALONE + config.read_text())
        self.machine.do("systemctl restart shoal")
        self.shoal("init home --backup root.backup")
        self.machine.until(self.answers)
        assert self.shoal("run -q -- sh -c 'id -un; python3 --version'").startswith("shoal-task")

    def a_second_time_changes_nothing(self) -> None:
        told = self.machine.do(f"{PLACE}/scripts/install --user pi 2>&1")
        assert "is here already" in told, told
        self.machine.until(self.answers)

    def systemd_finds_nothing_wrong(self) -> None:
        done = self.machine.run("systemd-analyze verify shoal.service shoal-tasks.service")
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), done
        told = self.machine.ask("systemd-analyze security --no-pager shoal.service")
        exposure = float(told.split("exposure level for shoal.service: ")[1].split()[0])
        assert exposure <= EXPOSURE_MAX, told

    def pauses_between_restarts_grow(self) -> None:
        """Of a service that does not start; older systemds have none that grows."""
        place = "/etc/systemd/system/shoal.service.d/zz-test.conf"
        self.machine.put(place, "[Service]\nExecStart=\nExecStart=/bin/false\n")
        self.machine.do("systemctl daemon-reload; systemctl restart --no-block shoal")
        tried = "systemctl show -P NRestarts shoal"
        times: list[float] = []
        for number in range(1, 5):
            self.machine.until(lambda n=number: int(self.machine.ask(tried)) >= n, 120)
            times.append(time.monotonic())
        pauses = [after - before for before, after in pairwise(times)]
        assert pauses[-1] > 1.5 * pauses[0], pauses
        self.machine.do(f"rm {place} && systemctl daemon-reload && systemctl restart shoal")
        self.machine.until(self.answers)
        self.figures["pauses between failed starts"] = ", ".join(f"{p:.1f} s" for p in pauses)

    def uninstall_leaves_nothing(self) -> None:
        self.machine.do(f"{PLACE}/scripts/install --uninstall --purge 2>&1")
        left = "/opt/shoal /etc/shoal /var/lib/shoal /etc/systemd/system/shoal.service.d"
        assert not self.machine.ask(f"ls -d {left} 2>/dev/null")


TRIED: Final = (
    CheckoutTrial.a_checkout_installs_what_it_needs,
    CheckoutTrial.it_takes_a_job,
    CheckoutTrial.a_second_time_changes_nothing,
    CheckoutTrial.systemd_finds_nothing_wrong,
    CheckoutTrial.pauses_between_restarts_grow,
    CheckoutTrial.uninstall_leaves_nothing,
)


def main() -> int:
    with Container(SUITE, online=True) as machine:
        return 0 if CheckoutTrial(machine).run(TRIED) else 1


if __name__ == "__main__":
    sys.exit(main())

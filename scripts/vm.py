"""A machine with a kernel of its own: booted by qemu.

For what a container shares with its host: control groups, the clock, and power that can be cut. It
has no network but a port of the host's loopback, at which it is typed to over ssh.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from scripts import disklog
from scripts.machine import PACKAGES, RUN_S, Machine, debian, needed, shell

SUITE: Final = "bookworm"
HOST_PACKAGES: Final = ("debootstrap", "openssh-client", "qemu-system-x86", "qemu-utils")
MORE_PACKAGES: Final = (
    "linux-image-cloud-amd64,kmod,openssh-server,docker.io,apparmor,iptables,busybox-static"
)
DISK: Final = "6G"  # sparse
MEMORY: Final = "2G"
BOOT_S: Final = 600.0  # where nothing but emulation is to be had, and others use the processor
SSH_S: Final = 20.0
# A disk that boots to a loop of 10**8 rounds and then ends qemu with an exit code of its own:
# mov ecx, 10**8; dec ecx; jnz; mov dx, 0xf4; mov al, 0x10; out dx, al; hlt.
PROBE: Final = bytes.fromhex("66b900e1f505 6649 75fc baf400 b010 ee f4").ljust(510, b"\0")
PROBED: Final = 0x10 << 1 | 1
# A processor takes 0.1 s for it, and the BIOS before it some more. Where KVM is offered without the
# processor's own means, so that each instruction is carried out by hand, it takes minutes.
PROBE_S: Final = 5.0
# `-cpu host` as it is names a register that some hosts then refuse to set.
KVM: Final = ("-accel", "kvm", "-cpu", "host,-arch-capabilities")
EMULATED: Final = ("-accel", "tcg,thread=multi", "-cpu", "max")
NETWORK: Final = "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
FORWARDED: Final = "hostfwd=tcp:127.0.0.1:{port}-:22"
KERNEL_LINE: Final = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet"


class VirtualMachine(Machine):
    """`clock` is what its hardware clock says at its next boot: `utc` is right."""

    def __init__(self, clock: str = "utc") -> None:
        super().__init__()
        self.clock = clock
        self.accelerated = accelerator()
        self.port = 0
        self.base = self.place  # until there is one
        self.disk = self.place / "disk"
        # What it writes in this boot, over that, and a log of it in the order of its writing.
        self.over, self.log = self.place / "over", self.place / "log"
        self._shell: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        needed(*HOST_PACKAGES)
        self.base = disk()
        image = ["cp", "--sparse=always", "--reflink=auto", self.base / "image", self.disk]
        subprocess.run(image, check=True)

    def boot(self) -> None:
        self.port = free_port()
        self.log.write_bytes(b"")
        over = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.disk, self.over]
        subprocess.run(over, check=True)
        forwarded = FORWARDED.format(port=self.port)
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                [
                    *("qemu-system-x86_64", *self.accelerated, "-smp", "2", "-m", MEMORY),
                    *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
                    *("-rtc", f"base={self.clock}", "-no-reboot"),
                    *("-kernel", f"{self.base}/vmlinuz", "-initrd", f"{self.base}/initrd.img"),
                    *("-append", KERNEL_LINE, "-device", "virtio-rng-pci"),
                    *("-blockdev", f"file,node-name=over-file,filename={self.over}"),
                    *("-blockdev", "qcow2,node-name=over,file=over-file"),
                    *("-blockdev", f"file,node-name=log,filename={self.log}"),
                    *("-blockdev", "blklogwrites,node-name=disk,file=over,log=log"),
                    *("-device", "virtio-blk-pci,drive=disk"),
                    *("-netdev", f"user,id=net,restrict=on,{forwarded}"),
                    *("-device", "virtio-net-pci,netdev=net,romfile="),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self.until(self._reached, BOOT_S)
        self.until(lambda: self.ask("systemctl is-system-running") == "running", BOOT_S)

    def _reached(self) -> bool:
        """Whether the one connection stands that all that is typed goes by."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(
                f"qemu ended: {self.console.read_text('utf-8', 'replace')[-2000:]}"
            )
        if self._shell is None or self._shell.poll() is not None:
            self._shell = subprocess.Popen(
                [*self._ssh(), "-M", "-N", "root@machine"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        asked = [*self._ssh(), "-O", "check", "root@machine"]
        return subprocess.run(asked, check=False, capture_output=True).returncode == 0

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": f"{SSH_S:.0f}",
            "ControlPath": f"{self.place}/ssh",
            "HostName": "127.0.0.1",
            "IdentitiesOnly": "yes",
            "IdentityFile": f"{self.base}/key",
            "LogLevel": "ERROR",
            "Port": str(self.port),
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", *given]

    def run(
        self, script: str, user: str = "root", within_s: float = RUN_S
    ) -> subprocess.CompletedProcess[str]:
        done = self._typed(shlex.join(shell(script, user)), b"", within_s)
        told = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(script, done.returncode, *told)

    def _typed(
        self, line: str, given: bytes, within_s: float = RUN_S
    ) -> subprocess.CompletedProcess[bytes]:
        command = [*self._ssh(), "-o", "ControlMaster=no", "root@machine", line]
        return subprocess.run(
            command, check=False, capture_output=True, timeout=within_s, input=given
        )

    def put(self, path: str, text: str) -> None:
        self.send(path, text.encode())

    def send(self, path: str, data: bytes) -> None:
        """The same for bytes of any number."""
        done = self._typed(f"cat >{shlex.quote(path)}", data)
        assert done.returncode == 0, done

    def power_off(self) -> None:
        super().power_off()
        self._hang_up()
        disklog.keep(self.log, self.disk)

    def cut_power(self) -> int:
        """At once: what its kernel has not written is gone, and what its disk was not told to keep
        since. How many bytes that were."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._hang_up()
        return disklog.keep(self.log, self.disk)[1]

    def close(self) -> None:
        super().close()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait()
            self._shell = None
        (self.place / "ssh").unlink(missing_ok=True)


def accelerator() -> tuple[str, ...]:
    """What qemu runs fast by here: KVM where the processor itself is behind it."""
    with tempfile.NamedTemporaryFile() as probe:
        probe.write(PROBE + b"\x55\xaa")
        probe.flush()
        command = ["qemu-system-x86_64", *KVM, "-m", "64", "-nodefaults", "-display", "none"]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        command += ["-drive", f"file={probe.name},format=raw"]
        try:
            done = subprocess.run(command, check=False, capture_output=True, timeout=PROBE_S)
        except (OSError, subprocess.TimeoutExpired):
            return EMULATED
    return KVM if done.returncode == PROBED else EMULATED


def disk() -> Path:
    """A directory with a disk's image, its kernel, and the key that admits root; made once."""
    tree = debian(SUITE, f"{PACKAGES},{MORE_PACKAGES}", "-vm")
    made, recipe = tree.with_name(f"{tree.name}-disk"), Path(__file__).read_text() + PACKAGES
    complete = made / "complete"
    if complete.exists() and complete.read_text() == recipe:
        return made
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(next((tree / "boot").glob(f"{name}-*")), made / name)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made / "key"], check=True)
    furnish(tree, (made / "key.pub").read_text())
    image = ["mkfs.ext4", "-q", "-F", "-d", str(tree), str(made / "image"), DISK]
    subprocess.run(image, check=True, stdout=subprocess.DEVNULL)
    complete.write_text(recipe)
    return made


def furnish(tree: Path, key: str) -> None:
    """What makes a machine of a tree; again and again."""
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    (tree / "root/.ssh/authorized_keys").write_text(key)
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("garage\n")
    (tree / "etc/systemd/network/eth0.network").write_text(NETWORK)
    units = tree / "etc/systemd/system"
    for link, target in (
        ("multi-user.target.wants/systemd-networkd.service", "systemd-networkd.service"),
        ("mosquitto.service", None),  # where nothing asks for a broker none is to run
        # A day or years after its tree was made it would look for updates, for half a minute.
        ("apt-daily.timer", None),
        ("apt-daily-upgrade.timer", None),
    ):
        (units / link).unlink(missing_ok=True)
        (units / link).symlink_to(f"/lib/systemd/system/{target}" if target else "/dev/null")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

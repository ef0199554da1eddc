"""A Mosquitto of a test's own: its own port, passwords, ACL and certificates."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

START_S: Final = 30.0
PROGRAM: Final = "/usr/sbin/mosquitto"  # Debian's


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker, started with the test and ended by its pid; what it keeps is kept over a restart.

    `users` are names with passwords, without whom everybody is let in; `acl` is a file's text.
    `within` is a network namespace: it listens there to all, and to us at `socket`. Of what it has
    no room for on the way to a client it keeps all, or `queued_max`; None: as it comes.
    """

    def __init__(
        self,
        users: dict[str, str] | None = None,
        acl: str = "",
        tls: Certificates | None = None,
        client_certificates: bool = False,
        more: str = "",
        within: str = "",
        queued_max: int | None = 0,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="shoal-mosquitto-")
        self.root = Path(self._directory.name)
        self.port = free_port()
        self.socket = self.root / "socket"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [PROGRAM, "-c", str(self.root / "mosquitto.conf")]
        self._within = within
        if within:
            self._command[:0] = ["ip", "netns", "exec", within]
        listeners = [f"listener 0 {self.socket}", f"listener {self.port}"]
        lines = [
            *(listeners if within else [f"listener {self.port} 127.0.0.1"]),
            "persistence true",
            f"persistence_location {self.root}/",
            f"user {os.environ.get('USER', 'root') if os.geteuid() else 'root'}",
            f"allow_anonymous {'false' if users is not None else 'true'}",
            "log_type all",
            more,
        ]
        if queued_max is not None:
            lines.append(f"max_queued_messages {queued_max}")
        if users is not None:
            self._write_users(users)
            lines.append(f"password_file {self.root}/passwords")
        if acl:
            (self.root / "acl").write_text(acl)
            lines.append(f"acl_file {self.root}/acl")
        if tls is not None:
            lines += [
                f"cafile {tls.ca}",
                f"certfile {tls.certificate}",
                f"keyfile {tls.key}",
                f"require_certificate {'true' if client_certificates else 'false'}",
            ]
        (self.root / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def _write_users(self, users: dict[str, str]) -> None:
        path = self.root / "passwords"
        path.write_text("".join(f"{name}:{word}\n" for name, word in users.items()))
        path.chmod(0o600)
        subprocess.run(["mosquitto_passwd", "-U", str(path)], check=True)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._directory.cleanup()

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        give_up = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > give_up or self.process.poll() is not None:
                raise AssertionError(f"mosquitto does not start: {self.log()[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        family = socket.AF_UNIX if self._within else socket.AF_INET
        with socket.socket(family) as probe:
            where = str(self.socket) if self._within else ("127.0.0.1", self.port)
            return probe.connect_ex(where) == 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """What is retained and queued goes to its disk, unless it is killed."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def allow(self, acl: str) -> None:
        """Another access list, as a person would mend it; who is connected stays so."""
        assert self.process is not None
        before = self.log().count("Reloading config")
        (self.root / "acl").write_text(acl)
        self.process.send_signal(signal.SIGHUP)
        give_up = time.monotonic() + START_S
        while self.log().count("Reloading config") == before:
            assert time.monotonic() < give_up, f"it is not read anew: {self.log()[-2000:]}"
            time.sleep(0.02)

    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")


class Certificates:
    """An authority, a server's certificate for 127.0.0.1, and a client's."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.ca, ca_key = root / "ca.pem", root / "ca.key"
        _openssl("req", "-x509", "-keyout", ca_key, "-out", self.ca, "-subj", "/CN=a test's own")
        self.certificate, self.key = self._sign(root, "server", ca_key)
        self.client, self.client_key = self._sign(root, "client", ca_key)

    def _sign(self, root: Path, name: str, ca_key: Path) -> tuple[Path, Path]:
        key, request, signed = root / f"{name}.key", root / f"{name}.csr", root / f"{name}.pem"
        extensions = root / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        subprocess.run(
            [
                *("openssl", "x509", "-req", "-in", str(request), "-out", str(signed)),
                *("-CA", str(self.ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2"),
                *("-extfile", str(extensions)),
            ],
            check=True,
            capture_output=True,
        )
        return signed, key


def _openssl(*arguments: object) -> None:
    subprocess.run(
        [
            *("openssl", *map(str, arguments)),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        ],
        check=True,
        capture_output=True,
    )

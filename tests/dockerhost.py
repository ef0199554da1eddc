"""A docker engine of a test's own: its own socket, data and network namespace, images made here."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import docker

from tests.namespaces import Namespaces

IMAGE: Final = "busybox:1.37.0"
PEER: Final = "12D3KooWTestPeer"  # whose containers tests make
BUSYBOX: Final = Path("/bin/busybox")  # Debian's busybox-static
START_S: Final = 60.0
REGISTRY_PORT: Final = 5000
LOGIN: Final = ("device", "s3cret-of-the-device")  # of a registry that asks for one,
HTPASSWD: Final = (  # which knows it by this: crypt(3) of it by bcrypt
    "device:$2b$05$abcdefghijklmnopqrstuuAaekIn6ewUQzTVyTbsnqTNrB5B.bOl."
)
# Another engine than the one on the path: what begins it, in words of a shell.
DOCKERD: Final = shlex.split(os.environ.get("SHOAL_TEST_DOCKERD", "dockerd"))


class DockerHost:
    """dockerd, started with the test and ended by its pid."""

    def __init__(self, *flags: str) -> None:
        # A unix socket's path has 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="shoal-docker-", dir="/tmp"))
        self.socket = self.root / "d.sock"
        self.namespaces = Namespaces()
        self.namespace = self.namespaces.add("docker")
        self.flags = list(flags)
        self.process: subprocess.Popen[bytes] | None = None
        self.registry_process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.make_image(IMAGE)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Exception):
            for each in self.api.containers(all=True):
                self.api.remove_container(each["Id"], force=True)
        self.stop()
        self.namespaces.close()
        for path in self._mounted():  # its own directory, and networks of containers
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)
        shutil.rmtree(self.root)

    def _mounted(self) -> list[str]:
        """What is mounted below the root, the deepest first."""
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return sorted((path for path in mounts if path.startswith(f"{self.root}/")), reverse=True)

    def start(self) -> None:
        with (self.root / "dockerd.log").open("ab") as log:
            self._spawn(log)
        give_up = time.monotonic() + START_S
        while not self._listens():
            assert self.process is not None
            if time.monotonic() > give_up or self.process.poll() is not None:
                tail = (self.root / "dockerd.log").read_text()[-2000:]
                raise AssertionError(f"dockerd does not start: {tail}")
            time.sleep(0.05)
        self.api = docker.APIClient(f"http+unix://{self.socket}", version="auto", timeout=60)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _spawn(self, log: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            [
                *("nsenter", f"--net=/var/run/netns/{self.namespace}"),
                *(*DOCKERD, f"--host=unix://{self.socket}", f"--data-root={self.root}/data"),
                *(f"--exec-root={self.root}/exec", f"--pidfile={self.root}/pid"),
                *self.flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """And its containerd with it, which a KILL leaves behind."""
        if self.process is None:
            return
        children = _children(self.process.pid)
        self.process.send_signal(number)
        self.process.wait(60)
        self.process = None
        self.api.close()
        if number is signal.SIGKILL:
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # Until somebody reaps them dockerd would take them for running, and wait for them.
            for path in ("pid", "exec/containerd/containerd.pid"):
                (self.root / path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def registry(self, tag: str, private: bool = False, **more: Any) -> Iterator[str]:
        """A registry in the engine's network that has one image of ours, which is not here; the
        image's name. It ends with the block. A private one asks for LOGIN."""
        port = REGISTRY_PORT
        config, known = self.root / "registry.yml", self.root / "registry.htpasswd"
        known.write_text(HTPASSWD)
        config.write_text(
            f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {self.root}/registry\n"
            f"http:\n  addr: 127.0.0.1:{port}\n"
            + (f"auth:\n  htpasswd:\n    realm: shoal\n    path: {known}\n" if private else "")
        )
        with (self.root / "registry.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/var/run/netns/{self.namespace}"),
                    *("docker-registry", "serve", str(config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        image = f"127.0.0.1:{port}/{tag}"
        try:
            self.publish(image, **more)
            self.registry_process = process
            yield image
        finally:
            process.kill()
            process.wait()

    def publish(self, image: str, **more: Any) -> None:
        """Another one in the registry, which is not here."""
        self.make_image(image, **more)
        self.push(image)
        self.api.remove_image(image)

    def push(self, image: str) -> None:
        end = time.monotonic() + START_S
        while True:  # until the registry listens
            auth = dict(zip(("username", "password"), LOGIN, strict=True))
            said = list(self.api.push(image, stream=True, decode=True, auth_config=auth))
            errors = [line["error"] for line in said if "error" in line]
            if not errors:
                return
            assert time.monotonic() < end, errors
            time.sleep(0.1)

    def move(self, image: str, files: dict[str, bytes]) -> None:
        """Its registry has another one under this name from now on; what is here stays."""
        before = self.api.inspect_image(image)["Id"]
        self.make_image(image, files)
        self.push(image)
        repository, _, tag = image.rpartition(":")
        self.api.tag(before, repository, tag)
        self.api.prune_images({"dangling": True})

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def make_image(self, tag: str, files: dict[str, bytes] | None = None, **config: Any) -> None:
        """Busybox under this tag, with more files and a Dockerfile's words where they are given."""
        applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.add(os.path.realpath(BUSYBOX), "bin/busybox")
            for name in applets.stdout.split():
                if name != "busybox":
                    link = tarfile.TarInfo(f"bin/{name}")
                    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                    tar.addfile(link)
            passwd = b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
            for path, content in {"etc/passwd": passwd, **(files or {})}.items():
                info = tarfile.TarInfo(path)
                info.size, info.mode = len(content), 0o755
                tar.addfile(info, io.BytesIO(content))
            for path in ("tmp", "proc", "sys", "dev"):
                info = tarfile.TarInfo(path)
                info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
                tar.addfile(info)
        name, _, version = tag.rpartition(":")
        changes = [f"{key.upper()} {value}" for key, value in config.items()]
        self.api.import_image_from_data(
            data.getvalue(), repository=name, tag=version, changes=changes
        )

    def relabel(self, image: str, tag: str, architecture: str) -> None:
        """The same image as `tag`, which says that it is for this kind of processor."""
        saved = io.BytesIO(b"".join(self.api.get_image(image)))
        made = io.BytesIO()
        with tarfile.open(fileobj=saved) as old, tarfile.open(fileobj=made, mode="w") as new:
            (manifest,) = json.loads(_content(old, "manifest.json"))
            config = json.loads(_content(old, manifest["Config"]))
            data = json.dumps({**config, "architecture": architecture}).encode()
            name = f"{hashlib.sha256(data).hexdigest()}.json"
            manifest |= {"Config": name, "RepoTags": [tag]}
            for layer in manifest["Layers"]:
                _add(new, layer, _content(old, layer))
            _add(new, name, data)
            _add(new, "manifest.json", json.dumps([manifest]).encode())
        self.api.load_image(made.getvalue())

    @contextlib.contextmanager
    def throttled(self, port: int, bytes_per_second: int) -> Iterator[None]:
        """Whoever sends from that port to somebody in the engine's network is as slow as this."""
        rule = f"tcp sport {port} limit rate over {bytes_per_second} bytes/second drop"
        chain = f"chain here {{ type filter hook input priority 0; {rule}; }}"
        self.namespaces.nft(self.namespace, f"table inet slow {{\n{chain}\n}}\n")
        try:
            yield
        finally:
            self.namespaces.nft(self.namespace, "delete table inet slow\n")

    def fetch(self, url: str) -> str:
        """A page, as seen from the engine's network; empty while there is none."""
        command = ["nsenter", f"--net=/var/run/netns/{self.namespace}", str(BUSYBOX)]
        done = subprocess.run(
            [*command, "wget", "-q", "-O", "-", url], check=False, capture_output=True, text=True
        )
        return done.stdout

    def ours(self) -> list[dict[str, Any]]:
        """Containers of agents, whatever their state."""
        found = self.api.containers(all=True, filters={"label": "shoal.execution"})
        return list(found)

    def remove_ours(self) -> None:
        """Returns once they are gone; docker may be removing one already, as somebody has asked."""
        end = time.monotonic() + START_S
        while found := self.ours():
            assert time.monotonic() < end, found
            for container in found:
                try:
                    self.api.remove_container(container["Id"], force=True)
                except docker.errors.APIError as error:
                    if error.status_code not in (404, 409):
                        raise
                    time.sleep(0.05)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]

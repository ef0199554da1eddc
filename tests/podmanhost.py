"""Podman's docker API, served for a test on a socket of its own."""

from __future__ import annotations

import os
import resource
import subprocess
from typing import IO, Any, Final

from tests.dockerhost import REGISTRY_PORT, DockerHost

REGISTRY: Final = f"127.0.0.1:{REGISTRY_PORT}"


class PodmanHost(DockerHost):
    """It needs no daemon of its own for containers; what is started is the server of its API."""

    def _spawn(self, log: IO[bytes]) -> None:
        config = self.root / "containers.conf"
        # It asks for more than a root without CAP_SYS_RESOURCE may give, and for a journal.
        limits = {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            "nproc": min(4096, resource.getrlimit(resource.RLIMIT_NPROC)[1] % (1 << 32)),
        }
        words = ", ".join(f'"{name}={most}:{most}"' for name, most in limits.items())
        config.write_text(
            f'[containers]\ndefault_ulimits = [{words}]\n[engine]\nevents_logger = "file"\n'
        )
        registries = self.root / "registries.conf"
        # Docker speaks plain HTTP on loopback by itself.
        registries.write_text(f'[[registry]]\nlocation = "{REGISTRY}"\ninsecure = true\n')
        self.process = subprocess.Popen(
            [
                *("nsenter", f"--net=/var/run/netns/{self.namespace}", "podman"),
                *("--root", self.root / "data", "--runroot", self.root / "run"),
                *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"),
                *("--tmpdir", self.root / "tmp", "--runtime", "/usr/sbin/runc"),
                *("system", "service", "--time=0", f"unix://{self.socket}"),
            ],
            env={
                **os.environ,
                "CONTAINERS_CONF": str(config),
                "CONTAINERS_REGISTRIES_CONF": str(registries),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.root,  # conmon leaves a file there for a container that was out of memory
            start_new_session=True,
        )

    def make_image(self, tag: str, files: dict[str, bytes] | None = None, **config: Any) -> None:
        """Podman imports without a tag, and looks for a short name at docker's hub alone."""
        name, _, version = tag.rpartition(":")
        full = name if name.startswith(f"{REGISTRY}/") else f"docker.io/library/{name}"
        super().make_image(f"{full}:latest", files, **config)
        if version != "latest":
            self.api.tag(f"{full}:latest", full, version)
            self.api.remove_image(f"{full}:latest")

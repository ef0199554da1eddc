"""Podman's docker API, served for a test on a socket of its own."""

from __future__ import annotations

import os
import resource
import subprocess
from typing import IO, Any

from tests.dockerhost import DockerHost


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
        self.process = subprocess.Popen(
            [
                *("nsenter", f"--net=/var/run/netns/{self.namespace}", "podman"),
                *("--root", self.root / "data", "--runroot", self.root / "run"),
                *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"),
                *("--tmpdir", self.root / "tmp", "--runtime", "/usr/sbin/runc"),
                *("system", "service", "--time=0", f"unix://{self.socket}"),
            ],
            env={**os.environ, "CONTAINERS_CONF": str(config)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.root,  # conmon leaves a file there for a container that was out of memory
            start_new_session=True,
        )

    def make_image(self, tag: str, files: dict[str, bytes] | None = None, **config: Any) -> None:
        """Podman imports without a tag, and looks for a short name at docker's hub alone."""
        name, _, version = tag.rpartition(":")
        super().make_image(f"docker.io/library/{name}:latest", files, **config)
        self.api.tag(f"docker.io/library/{name}:latest", f"docker.io/library/{name}", version)

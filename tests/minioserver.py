"""A MinIO of a test's own, in place of the server in tests/s3server.py.

Its own data, keys and port of loopback. Usage: `python -m tests.minioserver MINIO`, of the program
MINIO; it says where it listens and which keys are good, as one line of JSON, and ends, and MinIO
with it, with its standard input.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

from tests.mosquitto import free_port

START_S: Final = 60.0
STOP_S: Final = 30.0


def main() -> None:
    (program,) = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="shoal-minio-") as directory:
        told = {
            "endpoint": f"http://127.0.0.1:{free_port()}",
            "access": "tests",
            "secret": secrets.token_hex(16),
        }
        log = Path(directory, "log")
        process = _start(program, Path(directory), log, told)
        try:
            _await(process, log, told["endpoint"])
            print(json.dumps(told), flush=True)
            sys.stdin.read()
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(program: str, root: Path, log: Path, told: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "MINIO_ROOT_USER": told["access"],
        "MINIO_ROOT_PASSWORD": told["secret"],
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",  # it would ask the network for a newer one
    }
    address = told["endpoint"].removeprefix("http://")
    with log.open("wb") as file:
        return subprocess.Popen(
            [program, "server", "--address", address, str(root / "data")],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
        )


def _await(process: subprocess.Popen[bytes], log: Path, endpoint: str) -> None:
    """Until it says itself that it takes requests."""
    give_up = time.monotonic() + START_S
    while not _ready(endpoint):
        if time.monotonic() > give_up or process.poll() is not None:
            raise SystemExit(f"MinIO does not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _ready(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/minio/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()

"""A Home Assistant of a test's own, in a process and a Python of its own (hub.py)."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.mosquitto import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = ROOT / ".venv-homeassistant" / "bin" / "python"
WAIT_S: Final = 60.0


class HomeAssistant:
    """Connected to the broker at `port` once it is entered. Its states are asked for anew each
    time; what it has complained of meanwhile is in `complaints`."""

    def __init__(self, port: int) -> None:
        if not PYTHON.exists():
            raise AssertionError("run scripts/setup --homeassistant, which needs Python 3.13")
        self._port = port
        self.complaints: list[str] = []
        self._directory = tempfile.TemporaryDirectory(prefix="shoal-homeassistant-")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        log = Path(self._directory.name) / "log"
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [
                    *(str(PYTHON), str(Path(__file__).with_name("hub.py"))),
                    *(str(self._port), str(free_port()), self._directory.name),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self._answer()
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
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._directory.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            log = Path(self._directory.name) / "log"
            raise AssertionError(f"Home Assistant ended: {log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        self.complaints += answer.pop("complaints")
        return answer

    def ask(self, do: str, **more: str) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    @property
    def states(self) -> dict[str, tuple[str, dict[str, Any]]]:
        return {key: (value[0], value[1]) for key, value in self.ask("states")["states"].items()}

    def state(self, entity: str) -> str:
        """Empty where there is none of that id."""
        return self.states.get(entity, ("", {}))[0]

    def call(self, service: str, entity: str) -> None:
        self.ask("call", service=service, entity=entity)

    def check(self, topic: str, payload: bytes) -> list[str]:
        """What its schemas refuse, and what they warn of."""
        before = len(self.complaints)
        wrong: list[str] = self.ask("check", topic=topic, payload=payload.decode())["wrong"]
        warned, self.complaints = self.complaints[before:], self.complaints[:before]
        return wrong + warned

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        end = time.monotonic() + timeout_s
        while not (answer := condition()):
            if time.monotonic() > end:
                shown = {key: value[0] for key, value in self.states.items()}
                raise AssertionError(f"not within {timeout_s} s: {what}: {shown} {self.complaints}")
            time.sleep(0.1)
        return answer

"""A task that tells of each of its starts, and runs until it is let through."""

from __future__ import annotations

from tests.lab import Lab


class Gated:
    """Of one test, below the lab's directory; as root, tasks run as another user."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.directory = lab.directory / f"gate-{name}"
        self.directory.mkdir()
        self.starts = self.directory / "starts"
        self.starts.touch()
        self.starts.chmod(0o666)
        self.gate = self.directory / "gate"

    def command(self, code: int = 0) -> tuple[str, ...]:
        script = (
            f"echo $SHOAL_EXECUTION_ID >> {self.starts}; echo begun;"
            f" until test -e {self.gate}; do sleep 0.05; done; echo through; exit {code}"
        )
        return ("sh", "-c", script)

    def open(self) -> None:
        self.gate.touch()

    def executions(self) -> list[str]:
        return self.starts.read_text().split()

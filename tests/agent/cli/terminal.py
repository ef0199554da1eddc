"""A terminal, with the command line running in it."""

import os
import pty
import subprocess
import sys


class Terminal:
    """The command under a terminal of its own, as a person has it."""

    def __init__(self, *words: str) -> None:
        self.words = [sys.executable, "-m", "agent.cli.entry", *words]
        self.shown = b""

    def __enter__(self) -> "Terminal":
        self.ours, theirs = pty.openpty()
        # Opened anew by the leader of a new session, a terminal is that session's own (tty(4)).
        take = (
            "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", take, *self.words], stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )  # fmt: skip
        os.close(theirs)
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def until(self, text: bytes) -> None:
        while text not in self.shown:
            data = self._read()
            assert data, self.shown
            self.shown += data

    def rest(self) -> bytes:
        while data := self._read():
            self.shown += data
        return self.shown

    def wait(self) -> int:
        self.rest()
        return self.process.wait(60)

    def _read(self) -> bytes:
        try:
            return os.read(self.ours, 4096)
        except OSError:  # EIO: nobody has the other side any more
            return b""

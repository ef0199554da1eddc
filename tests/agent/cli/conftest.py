"""An agent in memory, and the command line run against it in this process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.cli.entry import main
from tests.agent.memory_agent import MemoryAgent

ROOT = Path(__file__).parents[3]


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Shoal = Callable[..., Ended]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent, host or setting of the machine the tests run on."""
    for name in ("SHOAL_HOST", "SHOAL_CONFIG", "SHOAL_SOCKET", "SHOAL_REMOTE_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHOAL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[MemoryAgent]:
    with MemoryAgent(tmp_path / "data" / "shoal.sock") as agent:
        yield agent


@pytest.fixture
def shoal(capfd: pytest.CaptureFixture[str]) -> Shoal:
    """Runs one command line: `shoal("peers", "--json")`."""

    def run(*words: str) -> Ended:
        capfd.readouterr()
        try:
            code = main(list(words))
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run

"""--host: every command over ssh, with an `ssh` that runs what it is given on this device."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.exitcodes import CliError
from agent.cli.remote import parse_host
from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent
from tests.programs import started


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts `ssh` and `shoal` on the PATH; returns the file in which ssh notes its arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    noted = tmp_path / "ssh-arguments"
    (programs / "ssh").write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        f"with open({str(noted)!r}, 'a') as file: file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "if 'unreachable' in sys.argv: sys.exit(255)\n"
        "os.environ.pop('SHOAL_HOST', None)\n"
        "os.execv('/bin/sh', ['sh', '-c', sys.argv[-1]])\n"  # sshd, too, hands it to a shell
    )
    (programs / "shoal").write_text(f'#!/bin/sh\nexec {sys.executable} -m agent.cli.entry "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return noted


def test_every_command_that_asks_the_agent_works_over_ssh(
    agent: MemoryAgent, shoal: Shoal, far: Path
) -> None:
    here = ("--host", "ssh://pi@attic:2222")
    assert "pi-kitchen" in shoal("peers", *here).out
    assert shoal("run", "-q", *here, "--", "echo", "hi").out == "hi\n"
    assert shoal("run", "-q", *here, "--", "exit", "5").code == 5
    job = shoal("run", "-d", *here, "--", "wait").out.strip()
    Path("f").write_bytes(os.urandom(300_000))
    assert shoal("run", "-q", "-f", "f", *here, "--", "echo", "shipped").out == "shipped\n"
    assert shoal("stop", job, *here).code == 0
    for words in (
        ("jobs",), ("logs", job), ("why", job), ("job", "describe", job), ("job", "wait", job),
        ("events",), ("invite",), ("config", "show"), ("doctor",), ("job", "executions", job),
    ):  # fmt: skip
        assert shoal(*words, *here).code in (0, 1, 125), words
    arguments = json.loads(far.read_text().splitlines()[0])
    assert arguments[-4:] == ["2222", "--", "pi@attic", "shoal _relay"]


def test_the_environment_names_the_host_too(
    agent: MemoryAgent, shoal: Shoal, far: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOAL_HOST", f"ssh://attic{tmp_path}/data")
    assert "pi-kitchen" in shoal("peers").out
    assert json.loads(far.read_text())[-1] == f"shoal _relay --data-dir {tmp_path}/data"


def test_shipping_and_running_is_one_ssh(agent: MemoryAgent, shoal: Shoal, far: Path) -> None:
    Path("f").write_text("x")
    shoal("run", "-q", "-f", "f", "--host", "attic", "--", "echo")
    assert len(far.read_text().splitlines()) == 1


def test_trouble_on_the_way_is_told_apart(
    shoal: Shoal, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = shoal("peers", "--host", "ssh://attic")
    assert ended.code == 3
    assert "no agent answers on attic; start it there with `shoal up`" in ended.err
    ended = shoal("peers", "--host", "unreachable")
    assert ended.code == 3 and "ssh to unreachable failed" in ended.err
    monkeypatch.setenv("SHOAL_REMOTE_COMMAND", "/absent/shoal")
    ended = shoal("peers", "--host", "attic")
    assert ended.code == 3 and "is not found on attic" in ended.err
    monkeypatch.setenv("PATH", "/absent")
    ended = shoal("peers", "--host", "attic")
    assert ended.code == 3 and "openssh-client" in ended.err


def test_what_changes_a_device_is_typed_on_it(
    shoal: Shoal, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (("init", "home"), ("join", "token"), ("up",)):
        ended = shoal(*words, "--host", "ssh://pi@attic")
        assert ended.code == 2 and f"ssh pi@attic shoal {words[0]}" in ended.err
    assert not far.exists()


def test_an_interrupt_reaches_the_person_before_ssh(agent: MemoryAgent, far: Path) -> None:
    """Ctrl-C goes to the whole foreground group; ssh has to outlive it for the job's sake."""
    with started(
        [sys.executable, "-m", "agent.cli.entry", "run", "--host", "attic", "--", "wait"],
        stderr=subprocess.PIPE, text=True, start_new_session=True, stdin=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        while "running on" not in running.stderr.readline():
            pass
        os.killpg(running.pid, signal.SIGINT)
        err = running.stderr.read()
    assert running.returncode == 130
    assert "the job goes on" in err and "Traceback" not in err


def test_an_agent_that_ends_ends_the_stream(agent: MemoryAgent, far: Path) -> None:
    with started(
        [sys.executable, "-m", "agent.cli.entry", "events", "-f", "--host", "attic"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as following:  # fmt: skip
        assert following.stdout is not None and following.stderr is not None
        agent.call(agent.backend.feed.tell, "tick", "tick")
        assert "tick" in following.stdout.readline()
        agent.stop()
        err = following.stderr.read()
    assert following.returncode == 3 and "Traceback" not in err


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ssh://pi@attic", ("pi@attic", [], "")),
        ("attic", ("attic", [], "")),
        ("ssh://attic:22/srv/my%20shoal", ("attic", ["-p", "22"], "/srv/my shoal")),
        ("ssh://me@example.org@192.0.2.1", ("me@example.org@192.0.2.1", [], "")),
        ("ssh://[fe80::1]:2222", ("fe80::1", ["-p", "2222"], "")),
    ],
)
def test_addresses_of_agents(url: str, found: tuple[str, list[str], str]) -> None:
    assert parse_host(url) == found


@pytest.mark.parametrize(
    "url",
    ["http://attic", "ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://x;y", "-l", "ssh://a:b",
     "ssh://-x@attic", "ssh://a@-b", "ssh://a:99999", "ssh://$(x)"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(CliError, match="no address of an agent"):
        parse_host(url)

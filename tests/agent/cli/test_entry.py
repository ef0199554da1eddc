"""The entry: what is loaded for which command, errors as sentences, exit codes."""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.cli.commands import COMMANDS
from agent.cli.entry import code_of
from agent.cli.parser import build
from agent.client import AgentError
from agent.jobfile import example
from agent.version import VERSION
from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent
from tests.programs import started

HEAVY = ("libp2p", "trio", "rich", "hypercorn", "starlette", "asyncio", "http.client", "email")


def loaded_by(*words: str, also: str = "") -> set[str]:
    """The modules that a command line loads, in a process of its own."""
    code = (
        "import sys; from agent.cli.entry import main\n"
        f"try: main({list(words)!r})\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stderr.splitlines())


def test_help_loads_next_to_nothing() -> None:
    loaded = loaded_by("--help")
    for module in (
        *HEAVY,
        "agent.config",
        "agent.client",
        "msgspec",
        "yaml",
        "json",
        "dataclasses",
    ):
        assert module not in loaded, module


@pytest.mark.parametrize(
    "words", [("peers",), ("jobs",), ("events",), ("run", "--", "echo", "hi"), ("stop", "x")]
)
def test_small_commands_load_neither_the_network_nor_the_terminal(
    agent: MemoryAgent, words: tuple[str, ...]
) -> None:
    loaded = loaded_by(*words)
    for module in (*HEAVY, "msgspec", "yaml", "cbor2", "protocol.job", "logging"):
        assert module not in loaded, module


def test_reading_a_job_file_does_not_load_the_network(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(example("batch"))
    loaded = loaded_by("job", "validate", str(file))
    assert "protocol.job" in loaded
    for module in ("libp2p", "trio", "rich", "hypercorn"):
        assert module not in loaded, module


def test_every_command_has_a_handler_and_a_line_of_help() -> None:
    for command in COMMANDS:
        module, _, function = command.handler.partition(":")
        assert callable(getattr(importlib.import_module(f"agent.cli.{module}"), function))
        assert command.help and not command.help.endswith(".")
    build(None).format_help()


def test_without_a_command_the_help_is_shown(shoal: Shoal) -> None:
    for words in ((), ("job",), ("config",)):
        ended = shoal(*words)
        assert (ended.code, "usage: shoal" in ended.out) == (2, True)


def test_a_wrong_command_line_ends_with_2(shoal: Shoal) -> None:
    assert shoal("nonsense").code == 2
    assert shoal("peers", "--nonsense").code == 2
    assert shoal("peers", "--", "x").code == 2
    assert shoal("job", "run").code == 2
    assert shoal("run").code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("rnu",), "there is no command 'rnu'; did you mean 'run'? `shoal --help` lists them"),
        (("job", "lst"), "there is no command 'lst'; did you mean 'list'? `shoal job --help`"),
        (("job", "zzz"), "there is no command 'zzz'; `shoal job --help` lists them"),
    ],
)
def test_a_mistyped_command_is_told_from_what_may_be_meant(
    shoal: Shoal, words: tuple[str, ...], says: str
) -> None:
    ended = shoal(*words)
    assert ended.code == 2 and says in ended.err and "invalid choice" not in ended.err


def test_an_empty_word_names_nothing(agent: MemoryAgent, shoal: Shoal) -> None:
    for words in (("job", "describe", ""), ("why", ""), ("stop", ""), ("peer", "forget", "")):
        ended = shoal(*words)
        assert ended.code == 4 and "an empty word names no" in ended.err, words
    ended = shoal("join", "")
    assert ended.code == 1 and "an empty word is no token" in ended.err


def test_options_stand_before_or_after_the_command(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("--json", "peers").json == shoal("peers", "--json").json
    socket = str(agent.path)
    assert shoal("--socket", socket, "--json", "peers").code == 0
    assert shoal("peers", "--socket", "/absent").code == 3


def test_no_agent_is_a_sentence_with_the_socket_and_what_to_do(
    shoal: Shoal, tmp_path: Path
) -> None:
    for words in (("peers",), ("run", "--", "echo"), ("events", "-f"), ("invite",)):
        ended = shoal(*words)
        assert ended.code == 3
        assert f"{tmp_path}/data/shoal.sock" in ended.err and "shoal up" in ended.err
        assert ended.err.count("\n") == 1 and ended.out == ""


@contextmanager
def somebody_else(path: Path) -> Iterator[None]:
    """For root another user; for others a path that is closed to themselves."""
    if os.geteuid() != 0:
        path.chmod(0)
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def test_a_socket_that_is_not_permitted_names_who_may(shoal: Shoal) -> None:
    """Asked as a user whom the kernel keeps out."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "shoal.sock"
        with MemoryAgent(path):
            Path(directory).chmod(0o755)
            with somebody_else(path):
                ended = shoal("peers", "--socket", str(path))
    assert ended.code == 3
    assert f"not allowed to use the agent's socket {path}: it belongs to " in ended.err
    assert "sudo" in ended.err


def test_what_the_agent_refuses_has_its_code(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("job", "describe", "absent").code == 4
    assert code_of(AgentError(409, "a one-off job is not deleted")) == 1
    ended = shoal("run", "--count", "101", "--", "echo")
    assert ended.code == 2
    assert ended.err == "shoal: --count: 101 is out of range; allowed: 1 to 100\n"
    agent.backend.archive_failure = OSError("no")
    Path("f").write_text("x")
    assert shoal("run", "-f", "f", "--", "true").code == 1


def test_whoever_reads_us_may_stop() -> None:
    words = [sys.executable, "-m", "agent.cli.entry", "config", "example"]
    with started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ended:
        assert ended.stdout is not None and ended.stderr is not None
        ended.stdout.close()
        assert ended.stderr.read() == b""
    assert ended.returncode == 0


def shell(line: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """`$shoal` in it is the command."""
    command = {"shoal": f"{sys.executable} -m agent.cli.entry", **more}
    return subprocess.run(
        ["/bin/sh", "-c", line], env={**os.environ, **command}, capture_output=True, check=False
    )


@pytest.mark.parametrize("words", ["peers", "run -- echo hi", "config example"])
def test_output_that_cannot_be_written_is_a_sentence(agent: MemoryAgent, words: str) -> None:
    ended = shell(f"$shoal {words} >/dev/full")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == b"shoal: cannot write: no space left on device"
    assert b"Traceback" not in ended.stderr and b"ignored" not in ended.stderr


def test_nobody_has_to_take_the_output(agent: MemoryAgent) -> None:
    for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        ended = shell(f"$shoal peers {closed}")
        assert (ended.returncode, ended.stderr) == (0, b""), closed


def test_a_terminal_with_fewer_characters_shows_what_it_can(agent: MemoryAgent) -> None:
    ended = shell("$shoal peers", PYTHONIOENCODING="iso8859-1")
    assert (ended.returncode, ended.stderr) == (0, b"") and b"?" in ended.stdout


def test_a_bug_is_not_hidden_behind_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.cli import entry, settings

    def broken(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(settings, "version", broken)
    with pytest.raises(ZeroDivisionError):
        entry.main(["version"])


def test_the_version_is_the_installed_one(shoal: Shoal) -> None:
    assert shoal("--version").out == f"shoal {VERSION}\n"
    assert shoal("version").out == f"shoal {VERSION}\n"
    assert shoal("version", "--json").json == {"version": VERSION}


def test_completions_know_every_command(shoal: Shoal) -> None:
    for shell in ("bash", "zsh"):
        text = shoal("completion", shell).out
        assert "shoal" in text
        for word in ("peers", "describe", "--constraint", "--offer-cpu"):
            assert word in text, (shell, word)


def test_config_show_and_example(shoal: Shoal, agent: MemoryAgent, tmp_path: Path) -> None:
    (tmp_path / "data" / "config.toml").write_text("preset = 'wan'\n")
    view = shoal("config", "show", "--json").json
    assert view["preset"] == {"value": "wan", "source": f"file {tmp_path}/data/config.toml"}
    assert view["data_dir"]["source"] == "env SHOAL_DATA_DIR"
    text = shoal("config", "show").out
    assert text.splitlines()[0].split() == ["SETTING", "VALUE", "FROM"]
    assert "SHOAL_DATA_DIR" in text and "\x1b" not in text
    assert shoal("config", "show", "--agent", "--json").json["name"]["source"] == "file"
    assert '# preset = "lan"' in shoal("config", "example").out
    (tmp_path / "data" / "config.toml").write_text("prest = 'wan'\n")
    ended = shoal("peers")
    assert ended.code == 2 and "did you mean 'preset'?" in ended.err

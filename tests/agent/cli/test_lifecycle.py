"""`init`, `invite`, `join` and `up` as far as they go without a network."""

import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import config, configload
from agent.client import AgentError, Client
from agent.identity import IdentityKeyring
from agent.jointoken import JoinToken, format_token
from agent.membership import load_member
from agent.shoalroot import recover_root
from protocol.ids import ShoalId
from protocol.records import Role
from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent
from tests.agent.test_waiting import Service, serving


def test_init_makes_a_shoal_and_shows_its_passphrase_once(shoal: Shoal, tmp_path: Path) -> None:
    ended = shoal("init", "home", "--device", "pi-kitchen", "--label", "room=kitchen", "--json")
    made = ended.json
    assert ended.code == 0 and ended.err == ""
    assert recover_root(Path(made["backup"]), made["passphrase"]).shoal == made["shoal"]
    member = load_member(tmp_path / "data")
    assert (member.certificate.name, member.membership.labels) == (
        "pi-kitchen",
        {"room": "kitchen"},
    )
    again = shoal("init", "other")
    assert again.code == 1 and "belongs to the shoal 'home' already" in again.err


def test_init_for_people_names_the_backup_and_what_is_next(shoal: Shoal, tmp_path: Path) -> None:
    Path("phrase").write_text("correct horse battery\n")
    ended = shoal("init", "home", "--passphrase-file", "phrase", "--backup", "root.backup")
    assert ended.code == 0
    assert "Backup" in ended.out and "shoal invite" in ended.out
    assert "correct horse" not in ended.out and "Passphrase" not in ended.out
    assert recover_root(Path("root.backup"), "correct horse battery").name == "home"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("init", "no spaces"), 2, "the shoal's name"),
        (("init", ""), 2, "the shoal's name: a name is needed"),
        (("init", "home", "--label", "novalue"), 2, "--label: allowed: name=value"),
        (("init", "home", "--label", "arch=vax"), 2, "--label: the label arch is the agent's own"),
        (("invite", "--label", "device.x=y"), 2, "--label: the label device.x is the agent's own"),
        (("init", "home", "--passphrase-file", "absent"), 2, "--passphrase-file absent"),
        (("invite", "--expires", "soon"), 2, "--expires: 'soon' is not a duration"),
    ],
)
def test_wrong_words_are_told_of(
    shoal: Shoal, tmp_path: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    ended = shoal(*words)
    assert (ended.code, text in ended.err) == (code, True), ended
    assert not (tmp_path / "data" / "membership").exists()


def test_invite_prints_the_token_alone(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal(
        "invite", "--expires", "1h", "--uses", "2", "--role", "compute,submit", "--role", "admit",
        "--label", "room=attic",
    )  # fmt: skip
    assert ended.out == "shoal-token-1\n"
    assert "within 1 h, 2 times" in ended.err
    assert agent.backend.invited == [(3600, 2, ["compute", "submit", "admit"], {"room": "attic"})]
    assert shoal("invite", "--json").json["token"] == "shoal-token-1"
    assert shoal("invite", "--uses", "0").code == 2


def test_open_invites_are_listed_and_withdrawn(agent: MemoryAgent, shoal: Shoal) -> None:
    shoal("invite", "--expires", "1h", "--uses", "2", "--label", "room=attic", "--role", "compute")
    ended = shoal("invites")
    assert ended.out.splitlines()[1].split() == [
        "000000000000", "0/2", "compute", "room=attic", "in", "1", "h",
    ]  # fmt: skip
    (invite,) = shoal("invites", "--json").json["invites"]
    assert "admits nobody more" in shoal("invites", "--withdraw", invite["id"]).out
    assert shoal("invites", "--json").json == {"invites": []}
    assert shoal("invites", "--withdraw", "").code == 2, "an empty variable of a script"
    again = shoal("invites", "--withdraw", invite["id"])
    assert again.code != 0 and "no such invite" in again.err


def test_the_backup_makes_another_device_a_member_with_every_role(
    shoal: Shoal, tmp_path: Path
) -> None:
    made = shoal("init", "home", "--device", "lost", "--backup", "root.backup", "--json").json
    Path("phrase").write_text(made["passphrase"] + "\n")
    Path("wrong").write_text("not the passphrase\n")
    there = ("--data-dir", str(tmp_path / "other"))
    words = ("recover", "root.backup", "--device", "heir", *there)
    refused = shoal(*words, "--passphrase-file", "wrong")
    assert refused.code == 1 and "passphrase" in refused.err
    asked = shoal(*words)
    assert asked.code == 2 and "--passphrase-file FILE" in asked.err, "there is no terminal"
    missing = shoal("recover", "absent.backup", *there)
    assert missing.code == 2 and "absent.backup is no file" in missing.err
    ended = shoal(*words, "--passphrase-file", "phrase")
    assert ended.code == 0 and "member of the shoal home with every role" in ended.out
    member = load_member(tmp_path / "other")
    assert member.membership.shoal == made["shoal"] and member.certificate.name == "heir"
    assert set(member.certificate.roles) == set(Role)
    assert member.keyring.peer != made["peer"]


def test_a_passphrase_is_asked_for_and_may_be_withheld(
    shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shoal("init", "home", "--backup", "root.backup", "--json").json
    words = ("recover", "root.backup", "--data-dir", str(tmp_path / "other"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    typed: list[str] = []

    def getpass(prompt: str) -> str:
        if not typed:
            raise EOFError
        return typed.pop()

    monkeypatch.setattr("getpass.getpass", getpass)
    ended = shoal(*words)
    assert ended.code == 2 and "no passphrase was given" in ended.err
    typed.append(made["passphrase"])
    assert shoal(*words).code == 0


def test_join_and_up_hand_over_to_the_agent(
    shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The halves that need the network stand in for themselves: what they are given counts here."""
    given: list[Any] = []

    def join_shoal(data_dir: Path, token: str, **options: Any) -> dict[str, str]:
        given.append((data_dir, token, options))
        return {"shoal_name": "home", "name": "pi-attic", "peer": "12D3KooW"}

    def run(loaded: Any, *, move_to_board: bool, wait: bool) -> None:
        given.append((loaded.config, move_to_board, wait))

    for name, function in (("agent.join_command", join_shoal), ("agent.main", run)):
        module = types.ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    ended = shoal("join", "TOKEN", "--name", "pi-attic", "--new-identity")
    assert "joined the shoal home as pi-attic" in ended.out
    assert given.pop() == (tmp_path / "data", "TOKEN", {"name": "pi-attic", "new_identity": True})
    ended = shoal(
        "up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--label", "a=b", "--offer-cpu", "1",
        "--preset", "wan", "--bootstrap", "/x", "--bootstrap", "/y", "--adopt-board",
        "--wait",
    )  # fmt: skip
    config, move, wait = given.pop()
    assert ended.code == 0 and move is True and wait is True
    assert (config.listen, config.mdns, config.labels) == (
        ("/ip4/127.0.0.1/tcp/0",),
        False,
        {"a": "b"},
    )
    assert (config.offer.cpu, config.preset, config.bootstrap) == ("1", "wan", ("/x", "/y"))
    assert shoal("up", "--preset", "fast").code == 2


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device with the service, which does not run; the data directory that is one's own."""
    unit, socket = tmp_path / "shoal.service", tmp_path / "run" / "shoal.sock"
    unit.touch()
    for module in (config, configload):
        monkeypatch.setattr(module, "SYSTEM_UNIT", unit)
        monkeypatch.setattr(module, "SYSTEM_SOCKET", socket)
    monkeypatch.setattr(configload, "default_data_dir", lambda _: tmp_path / "own")
    monkeypatch.delenv("SHOAL_DATA_DIR")
    return tmp_path / "own"


def test_beside_a_service_that_does_not_run_nobody_is_led_to_a_second_agent(
    stopped: Path, shoal: Shoal
) -> None:
    for words in (("peers",), ("init", "home"), ("config", "show"), ("run", "--", "true")):
        ended = shoal(*words)
        assert ended.code == 3 and "the service shoal does not run" in ended.err, words
        assert "journalctl -u shoal" in ended.err and "shoal up" not in ended.err
    ended = shoal("up")
    assert ended.code == 1 and "is the service shoal" in ended.err
    assert not stopped.exists()
    assert shoal("--data-dir", str(stopped), "init", "mine").code == 0
    ended = shoal("up", "--listen", "nonsense")
    assert ended.code == 1 and "nonsense" in ended.err, "one's own goes on"


# ---- a service that waits, and one that is the system's ----------------------------------------


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "data").mkdir()
    with serving(tmp_path / "data") as service:
        yield service


def test_init_asks_a_service_that_waits(waiting: Service, shoal: Shoal, tmp_path: Path) -> None:
    ended = shoal("init", "home", "--label", "room=attic", "--backup", "root.backup", "--json")
    assert ended.code == 0, ended.err
    waiting.thread.join(60)
    assert waiting.joined is True
    assert load_member(tmp_path / "data").membership.labels == {"room": "attic"}
    kept = Path("root.backup")
    assert ended.json["backup"] == str(kept.resolve()) and kept.stat().st_mode & 0o777 == 0o600
    assert recover_root(kept, ended.json["passphrase"]).shoal == ended.json["shoal"]
    assert "content" not in ended.json


def test_a_backup_that_cannot_be_put_there_is_told_of_and_not_lost(
    waiting: Service, shoal: Shoal, tmp_path: Path
) -> None:
    Path("taken").write_text("something else")
    ended = shoal("init", "home", "--backup", "taken", "--json")
    assert ended.code == 0 and "--backup taken: File exists" in ended.err
    assert Path("taken").read_text() == "something else"
    assert recover_root(Path(ended.json["backup"]), ended.json["passphrase"]).name == "home"
    assert "shoal up" not in ended.out


def test_what_a_service_refuses_is_told_as_it_is(waiting: Service, shoal: Shoal) -> None:
    ended = shoal("join", "shoal1:abc")
    assert ended.code == 1 and "cut short" in ended.err
    ended = shoal("peers")
    assert ended.code == 1 and "belongs to no shoal yet" in ended.err
    ended = shoal("doctor")
    assert ended.code == 0 and "shoal: this device belongs to no shoal yet" in ended.out


@pytest.mark.skipif(os.geteuid() != 0, reason="of root")
def test_root_writes_as_the_user_whose_directory_it_is(tmp_path: Path) -> None:
    """In a process of its own: there is no way back."""
    home = Path(tempfile.mkdtemp(prefix="shoal-owned-"))
    data = home / "data"
    data.mkdir()
    home.chmod(0o711)
    os.chown(data, 1, 1)
    script = (
        "import sys, pathlib, agent.shoalroot as made, agent.cli.lifecycle as it, os;"
        "from agent.membership import load_member;"
        "from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305;"
        "from cryptography.hazmat.primitives.kdf.scrypt import Scrypt;"
        "data = pathlib.Path(sys.argv[1]); it.as_owner(data / 'absent'); assert os.geteuid() == 0;"
        "it.as_owner(data); made.create_shoal(data, 'home', 'a passphrase for tests');"
        "print(os.getresuid(), os.getresgid())"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(data)],
            check=False, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert done.stdout.strip() == "(1, 1, 1) (1, 1, 1)", done.stderr
        assert {path.stat().st_uid for path in data.iterdir()} == {1}
    finally:
        shutil.rmtree(home)


def test_a_member_is_told_that_it_is_one(agent: MemoryAgent) -> None:
    """By the routes of a running agent; the command line asks them of the system's alone."""
    shoal, other = IdentityKeyring.generate().peer, IdentityKeyring.generate().peer
    mine = {"shoal": shoal, "shoal_name": "home", "peer": other, "name": "attic"}
    agent.backend.status = lambda: mine  # type: ignore[method-assign]
    with Client(agent.path) as client:
        with pytest.raises(AgentError, match="already; a second shoal needs") as refused:
            client.init("other")
        assert refused.value.status == 422
        with pytest.raises(AgentError, match="not a token"):
            client.join("nonsense")
        token = JoinToken(ShoalId(shoal), "home", other, (), b"\0" * 16, 0)
        told = client.join(format_token(token))
        assert told["already"] is True and told["name"] == mine["name"]
        with pytest.raises(AgentError, match=r"--new-identity TOKEN"):
            client.join(format_token(token), None, True)
        foreign = JoinToken(ShoalId(other), "yard", other, (), b"\0" * 16, 0)
        with pytest.raises(AgentError, match="belongs to the shoal 'home' already"):
            client.join(format_token(foreign))

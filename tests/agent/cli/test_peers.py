"""`shoal peer`: listed by labels, described, drained and forgotten."""

import pytest

from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent


def test_the_list_has_label_columns_on_request(agent: MemoryAgent, shoal: Shoal) -> None:
    assert "LABELS" not in shoal("peers").out and "room=" not in shoal("peers").out
    lines = shoal("peers", "--labels").out.splitlines()
    assert "LABELS" in lines[0] and "room=kitchen" in lines[1]
    lines = shoal("peer", "list", "--labels", "room,camera").out.splitlines()
    assert lines[0].split()[-3:] == ["ROOM", "CAMERA", "VERSION"]
    assert lines[1].split()[-3:] == ["kitchen", "-", "0.1.0"]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (("room=attic",), ["pi-attic"]),
        (("room in (attic,shed)",), ["pi-attic", "pi-shed"]),
        (("room", "room!=shed"), ["pi-kitchen", "pi-attic"]),
        (("room,!room",), []),
        (("name in (pi-attic,pi-shed)",), ["pi-attic", "pi-shed"]),
    ],
)
def test_the_list_is_filtered_as_constraints_are(
    agent: MemoryAgent, shoal: Shoal, where: tuple[str, ...], names: list[str]
) -> None:
    words = [word for text in where for word in ("--where", text)]
    assert [peer["name"] for peer in shoal("peers", *words, "--json").json["peers"]] == names
    assert len(shoal("peers", *words).out.splitlines()) == 1 + len(names)


def test_a_filter_that_cannot_be_read_is_refused(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("peers", "--where", "=attic")
    assert ended.code == 2 and "--where: cannot read '=attic'" in ended.err


def test_this_device_is_described_with_its_owners_policy(agent: MemoryAgent, shoal: Shoal) -> None:
    out = shoal("peer", "describe").out
    for text in (
        "State        this device, for 1 m 15 s",
        "Addresses    /ip4/192.0.2.7/tcp/4001",
        "Offers       4 cores, 2.0 GiB memory, 8.0 GiB disk",
        "Incarnation  4",
        "  room=kitchen  (invite)",
        "Taken here, by the owner's [accept]",
    ):
        assert text in out, (text, out)
    policy = out[out.index("Taken here") :]
    assert "types              batch, ops" in policy and "hours              any" in policy
    assert "mains_only         true" in policy and "temperature_max_c  80" in policy
    assert shoal("peer", "describe", "--json").json["policy"]["types"] == ["batch", "ops"]


def test_another_device_is_described_without(agent: MemoryAgent, shoal: Shoal) -> None:
    out = shoal("peer", "describe", "pi-attic").out
    assert "State        alive" in out and "Path         direct, connected" in out
    assert "  room=attic\n" in out and "Taken here" not in out
    assert "Path         none just now" in shoal("peer", "describe", "pi-shed").out
    assert "policy" not in shoal("peer", "describe", "pi-attic", "--json").json
    ended = shoal("peer", "describe", "pi-cellar")
    assert ended.code == 4 and "no peer 'pi-cellar'" in ended.err


def test_a_drained_device_shows_it(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("peer", "drain")
    assert ended.code == 0 and agent.backend.draining
    assert "pi-kitchen takes no new batch and service work; 2 tasks running here" in ended.err
    assert "this device, draining" in shoal("peers").out
    assert shoal("peer", "drain", "pi-kitchen", "--json").json["draining"] is True
    for words in (("peer", "undrain"), ("peer", "drain", "--off")):
        agent.backend.draining = True
        assert "takes new work again" in shoal(*words).err
        assert not agent.backend.draining
    assert shoal("peer", "undrain", "--json").json["draining"] is False


def test_another_device_is_drained_there(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("peer", "drain", "pi-attic")
    assert ended.code == 2 and "--host ssh://pi-attic" in ended.err


def test_a_device_is_forgotten_unless_it_lives(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("peer", "forget", "pi-attic")
    assert ended.code == 1 and "pi-attic is alive" in ended.err
    ended = shoal("peer", "forget", "pi-shed")
    assert ended.code == 0 and "pi-shed is remembered no longer" in ended.err
    assert "pi-shed" not in shoal("peers").out
    agent.backend.forgotten.clear()
    assert shoal("peer", "forget", "pi-shed", "--json").json["name"] == "pi-shed"
    assert shoal("peer", "forget").code == 2


def test_a_peer_that_is_reached_through_another_says_through_which(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    assert "via" not in shoal("peers").out
    agent.backend.relayed = {"pi-attic": "pi-kitchen"}
    assert "alive, via pi-kitchen" in shoal("peers").out
    assert "Path         via pi-kitchen" in shoal("peer", "describe", "pi-attic").out

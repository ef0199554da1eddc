"""`shoal label`: set, unset and listed; wrong pairs are refused before the agent is asked."""

import pytest

from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent


def test_labels_are_set_listed_and_unset(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("label", "set", "camera=", "note=a,b=c")
    assert ended.code == 0 and "2 labels changed" in ended.err
    assert agent.backend.live == {"camera": "", "note": "a,b=c"}
    lines = [line.split() for line in shoal("label", "list").out.splitlines()]
    assert lines == [
        ["LABEL", "VALUE", "FROM"], ["room", "kitchen", "invite"], ["camera", "set"],
        ["note", "a,b=c", "set"],
    ]  # fmt: skip
    ended = shoal("label", "unset", "camera", "--json")
    assert [label["name"] for label in ended.json["labels"]] == ["room", "note"]
    assert shoal("label", "list", "--json").json == ended.json


def test_the_one_command_below_peer_does_it_all(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("peer", "label", "a=1", "b=2").code == 0
    assert "2 labels changed" in shoal("peer", "label", "c=3", "--unset", "a").err
    assert agent.backend.live == {"b": "2", "c": "3"}
    assert shoal("peer", "label").out == shoal("label", "list").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("label", "set", "camera"), "'camera': allowed: name=value"),
        (("label", "set", "=x"), "'=x': allowed: name=value"),
        (("label", "set", "a=1", "a=2"), "a is given twice"),
        (("peer", "label", "a=1", "--unset", "a"), "a is both set and unset"),
        (("label", "set", "arch=vax"), "the label arch is the agent's own"),
        (("label", "set"), "required: K=V"),
    ],
)
def test_wrong_labels_are_refused_and_nothing_is_set(
    agent: MemoryAgent, shoal: Shoal, words: tuple[str, ...], said: str
) -> None:
    ended = shoal(*words)
    assert ended.code == 2 and said in ended.err
    assert agent.backend.live == {}

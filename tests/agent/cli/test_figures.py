"""`shoal metrics`: for a person, and as JSON."""

from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent


def test_they_are_printed_as_prometheus_reads_them(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("metrics")
    assert ended.code == 0
    assert ended.out.splitlines()[1:3] == [
        "# TYPE shoal_peers gauge",
        'shoal_peers{state="alive"} 2.0',
    ]


def test_as_json_each_series_has_its_value(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("metrics", "--json").json == {
        'shoal_peers{state="alive"}': 2.0,
        'shoal_peers{state="dead"}': 0.0,
    }


def test_without_an_agent_it_says_so(shoal: Shoal) -> None:
    ended = shoal("metrics")
    assert ended.code == 3 and "no agent is running" in ended.err

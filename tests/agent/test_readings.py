"""The readings: what a whole agent tells of itself, and what it never tells."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec import structs

from agent import durable
from agent.configload import load
from agent.main import Agent
from agent.mqtt.message import Outgoing
from agent.readings import Kind, Labels, Reading, Readings
from protocol.ids import JobId, PeerId
from protocol.job import JobSpec
from protocol.outbox import Message
from tests.agent.whole import open_directory, running_agent, until
from tests.lab import ROOT, process_job
from tests.mosquitto import Mosquitto

NOBODY = "home=mqtt://127.0.0.1:1"  # nothing listens there
OTHER = PeerId("12D3KooWJ8NCNvvnhYKZWTD5RYhDkNbfJcEnCnVF3GXRAKXuSTHD")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


def read(agent: Agent) -> dict[str, Reading]:
    return {reading.name: reading for reading in Readings(agent).all()}


def value(agent: Agent, name: str, **labels: str) -> float:
    return read(agent)[name].values[tuple(labels.items())]


async def run(agent: Agent, *command: str, name: str) -> str:
    spec = JobSpec.from_plain(process_job(*command, name=name))
    return str((await agent.backend.submit(spec.to_plain(), ""))["job"])


async def test_names_and_units_are_as_prometheus_has_them(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        readings = Readings(agent).all()
    assert len({reading.name for reading in readings}) == len(readings)
    for reading in readings:
        assert reading.name == reading.name.lower() and reading.name.isidentifier()
        assert not reading.name.endswith(("_total", "_ms", "_s")), "units are whole and last"
        assert reading.help.endswith("."), reading.name
        assert len({tuple(name for name, _ in labels) for labels in reading.values}) <= 1
    assert {reading.kind for reading in readings} == {Kind.GAUGE, Kind.COUNTER}


async def test_a_job_and_its_execution_are_counted_by_state(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        assert set(read(agent)["jobs"].values.values()) == {0}
        await run(agent, "true", name="well")
        await run(agent, "false", name="ill")
        await until(lambda: value(agent, "jobs", state="completed") == 1)
        await until(lambda: value(agent, "jobs", state="failed") == 1)
        assert value(agent, "executions", state="completed") == 1
        assert value(agent, "executions", state="failed") == 1
        assert value(agent, "announcements", answer="bid") == 2
        job = await run(agent, "sleep", "60", name="long")
        await until(lambda: value(agent, "executions", state="running") == 1)
        assert value(agent, "jobs", state="running") == 1
        assert 0 < value(agent, "reserved_cpu_cores") <= value(agent, "offered_cpu_cores")
        await agent.backend.stop(job)
        await until(lambda: value(agent, "jobs", state="stopped") == 1)
        await until(lambda: value(agent, "reserved_cpu_cores") == 0)


async def test_how_the_jobs_are_is_what_the_api_says(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        for number in range(3):
            await run(agent, "true" if number else "false", name=f"n{number}")
        await until(lambda: value(agent, "jobs", state="completed") == 2)
        await until(lambda: value(agent, "jobs", state="failed") == 1)
        views = (await agent.backend.jobs("", 100, False))["jobs"]
        assert sorted(view["state"] for view in views) == ["completed", "completed", "failed"]


async def test_what_many_jobs_are_called_makes_no_new_series(data_dir: Path) -> None:
    """A series for each job would fill the database of whoever watches."""

    def series(agent: Agent) -> set[tuple[str, Labels]]:
        return {(one.name, labels) for one in Readings(agent).all() for labels in one.values}

    async with running_agent(data_dir) as agent:
        before = series(agent)
        jobs = [await run(agent, "true", name=f"job-{number}") for number in range(10)]
        await until(lambda: value(agent, "jobs", state="completed") == 10)
        after = series(agent)
        assert after == before
        text = repr(after)
        assert not any(job in text for job in jobs) and "job-" not in text


async def test_what_may_be_wrong_is_told(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        assert value(agent, "taking_work") == 1 and value(agent, "malformed_messages") == 0
        assert "docker_trouble" not in read(agent), "docker was never here"
        await agent.backend.drain("@self", True)
        agent.driver.node.messaging.malformed[OTHER] += 3
        agent.docker.presence.present, agent.docker.presence.trouble = True, "it hangs"
        agent.transport.counters.count("refused.handshake")
        agent.cloned = "two devices"
        bidder = agent.driver.node.executor.bidder
        bidder.facts = replace_facts(bidder.facts, temperature_mc=61_500, battery_percent=50)
        assert value(agent, "taking_work") == 0 and value(agent, "malformed_messages") == 3
        assert value(agent, "docker_trouble") == 1 and value(agent, "cloned") == 1
        assert value(agent, "transport_events", reason="refused.handshake") == 1
        assert value(agent, "temperature_celsius") == 61.5 and value(agent, "battery_ratio") == 0.5
        bidder.facts = replace_facts(bidder.facts, temperature_mc=-1, battery_percent=-1)
        assert not {"temperature_celsius", "battery_ratio"} & set(read(agent))


def replace_facts(facts: object, **changes: int) -> object:
    return structs.replace(facts, **changes)  # type: ignore[type-var]


async def test_a_broker_that_is_away_and_what_waits_for_it_are_told_of(data_dir: Path) -> None:
    async with running_agent(data_dir, mqtt__brokers=NOBODY) as agent:
        assert value(agent, "broker_connected", broker="home") == 0
        assert value(agent, "broker_results_waiting", broker="home") == 0
        agent.driver.node.publishing.outbox.add(Message("id", "home", JobId("j" * 32), "t", b"x"))
        assert value(agent, "broker_results_waiting", broker="home") == 1
        assert value(agent, "trigger_messages_waiting") == 0
        (entry,) = [each for each in agent.doctor.checks() if each["check"] == "broker home"]
        assert entry["text"].endswith("; results that wait for it: 1")


LOOK = {
    "Name": "look",
    "Type": "batch",
    "Parameters": [],
    "Trigger": {
        "Mqtt": {"Broker": "home", "Topic": "in/+", "When": "t > `20`", "Dedup": {"Key": "id"}}
    },
    "Tasks": [{"Engine": {"Type": "process", "Params": {"Command": ["true"]}}}],
}


async def test_what_became_of_messages_is_counted_and_names_no_topic(data_dir: Path) -> None:
    def answers() -> dict[str, float]:
        found = read(agent)["trigger_messages"].values
        return {labels[0][1]: count for labels, count in found.items()}

    with Mosquitto() as mosquitto:
        flags = {"mqtt__brokers": f"home={mosquitto.url}", "mqtt__allow": "template/*"}
        async with running_agent(data_dir, **flags) as agent:
            assert answers() == {"taken": 0, "filtered": 0, "refused": 0}
            spec = JobSpec.from_plain(LOOK)
            await agent.backend.submit(spec.to_plain(), "")
            await until(lambda: agent.bridge.listening.heard_at("home") == ["in/+"])
            broker = agent.brokers.named("home")
            assert broker is not None
            before = value(agent, "broker_received_messages", broker="home")
            for text in ('{"t": 30, "id": "a"}', '{"t": 10, "id": "b"}', '{"t": 30}', "{no JSON"):
                ended: list[str] = []
                message = Outgoing("in/hall", text.encode())
                await until(lambda m=message, e=ended: broker.publish(m, e.append))
                await until(lambda e=ended: e == [""])
            await until(lambda: answers() == {"taken": 1, "filtered": 1, "refused": 2})
            await until(lambda: value(agent, "jobs", state="completed") == 1)
            assert value(agent, "broker_received_messages", broker="home") >= before + 4
            assert value(agent, "broker_unreadable_messages", broker="home") == 0
            assert value(agent, "broker_line_dropped_bytes", broker="home") == 0
            await until(lambda: read(agent)["broker_dropped_messages"].values)
            assert value(agent, "broker_dropped_messages", broker="home") == 0
            text = repr(Readings(agent).all())
            assert "hall" not in text and "look" not in text


async def test_the_store_and_the_loop_are_told_of(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        before = {name: read(agent)[name].values[()] for name in read(agent) if "store" in name}
        await agent.store.save([("meta", "x", bytes(50_000))])
        assert value(agent, "store_commits") > before["store_commits"]
        assert value(agent, "store_fsyncs") > before["store_fsyncs"]
        assert value(agent, "store_written_bytes") > before["store_written_bytes"] + 50_000
        assert value(agent, "store_bytes") > before["store_bytes"]
        synced = value(agent, "file_fsyncs")
        durable.write(data_dir / "small", b"x")
        assert value(agent, "file_fsyncs") == synced + 2, "the file, and its name"
        await until(lambda: value(agent, "loop_wakes") > 0)
        assert value(agent, "loop_late_seconds") >= 0
        await until(lambda: value(agent, "driver_queue_length") == 0)
        expires_s = value(agent, "certificate_expiry_timestamp_seconds")
        assert expires_s == agent.member.certificate.expires_ms / 1000
        about = dict(next(iter(read(agent)["build_info"].values)))
        assert about["peer"] == agent.member.keyring.peer and about["name"] == "alone"


async def scraped(agent: Agent, name: str) -> float:
    text = (await agent.backend.metrics()).decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"shoal_{name} ")]
    return float(line.split()[1])


async def test_what_a_job_prints_is_counted_while_it_runs_and_after(data_dir: Path) -> None:
    names = ("written_bytes_total", "task_output_bytes_total")
    script = "head -c 3000000 /dev/zero; until [ -e end ]; do sleep 0.05; done; echo 123456789"
    async with running_agent(data_dir) as agent:
        own, printed = [await scraped(agent, name) for name in names]
        await run(agent, "sh", "-c", script, name="loud")
        looks = agent.engines.process.outputs.look
        await until(lambda: looks().bytes >= 3_000_000)
        assert await scraped(agent, "task_output_bytes_total") == printed + 3_000_000
        assert await scraped(agent, "task_fsyncs_total") == 0, "it goes on"
        (directory,) = (data_dir / "executions").iterdir()
        (directory / "work" / "end").touch()
        await until(lambda: value(agent, "jobs", state="completed") == 1)
        assert await scraped(agent, "task_output_bytes_total") == printed + 3_000_010
        assert await scraped(agent, "task_fsyncs_total") == 3, "exit, directory and stdout"
        grown = await scraped(agent, "written_bytes_total") - own
        assert grown < 2_500_000, "what supervisors write is not the agent's own"


# ---- what the README says -----------------------------------------------------------------------


def readme_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text().partition("\n## Metrics\n")[2]
    return text.partition("\n## ")[0].split("```")


async def test_the_readmes_figures_exist_and_none_is_left_out(data_dir: Path) -> None:
    async with running_agent(data_dir, mqtt__brokers=NOBODY) as agent:
        agent.docker.presence.present = True
        bidder = agent.driver.node.executor.bidder
        bidder.facts = replace_facts(bidder.facts, temperature_mc=1, battery_percent=1)
        text = (await agent.backend.metrics()).decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP shoal_")}
    prose = "".join(readme_blocks()[::2])
    told = {f"shoal_{name}" for name in re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", prose)}
    units = re.search(r"`offered_…`, `reserved_…` \(([^)]*)\)", prose)
    assert units is not None
    for unit in re.findall(r"`([a-z_]+)`", units[1]):
        told |= {f"shoal_offered_{unit}", f"shoal_reserved_{unit}"}
    assert names - told == set()
    used = {word for block in readme_blocks() for word in re.findall(r"shoal_[a-z_]+", block)}
    assert used - names == set(), "an alert on what is not there never fires"


def test_the_readmes_configurations_can_be_read(tmp_path: Path) -> None:
    blocks = [block.split("\n", 1) for block in readme_blocks()[1::2]]
    assert [kind for kind, _ in blocks] == ["toml", "yaml", "yaml"]
    (tmp_path / "config.toml").write_text(blocks[0][1])
    loaded = load({"data_dir": str(tmp_path)}, {})
    assert loaded.config.metrics.listen == "192.168.1.20:9464"
    assert yaml.safe_load(blocks[1][1])["scrape_configs"][0]["job_name"] == "shoal"
    rules = yaml.safe_load(blocks[2][1])["groups"][0]["rules"]
    assert len(rules) == 3 and all({"alert", "expr", "for"} <= set(rule) for rule in rules)

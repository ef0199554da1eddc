"""The backend over a whole agent: what the API asks of it, and how it refuses."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.backend import AgentBackend
from agent.control.backend import FINAL_STATES, LogQuery, RequestError
from agent.results import GONE
from tests.agent.whole import open_directory, running_agent, until
from tests.lab import process_job


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


async def ended(backend: AgentBackend, job: str) -> dict[str, Any]:
    await until(lambda: backend._driver.node.jobs[job].done)  # type: ignore[index]
    return await backend.job(job)


async def refused(status: int, match: str, call: Any) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        await call
    assert caught.value.status == status


async def test_a_job_from_its_submission_to_its_end(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        backend = agent.backend
        accepted = await backend.submit(process_job("sh", "-c", "echo hi; exit 3", name="one"), "")
        view = await ended(backend, accepted["job"])
        assert view["state"] == "failed" and view["slots"][0]["exit_code"] == 3
        for wanted in (accepted["job"], accepted["job"][:6], "one"):
            assert (await backend.job(wanted))["id"] == accepted["job"]
        listed = await backend.jobs("", 10, False)
        assert [v["name"] for v in listed["jobs"]] == ["one"] and listed["silent"] == []
        lines = [line async for line in backend.logs(accepted["job"], LogQuery())]
        assert [(line["stream"], line["data"]) for line in lines] == [("stdout", b"hi\n")]
        stopped = await backend.stop("one")
        assert stopped["note"] == "it has ended already"


async def test_a_task_reads_a_file_of_its_inputs_as_standard_input(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        source = {"Source": {"Type": "inline", "Params": {"URL": "data:,ON"}}, "Target": "in/m"}
        task = {"InputSources": [source], "Stdin": "in/m"}
        accepted = await agent.backend.submit(process_job("cat", Task=task), "")
        assert (await ended(agent.backend, accepted["job"]))["state"] == "completed"
        lines = [line async for line in agent.backend.logs(accepted["job"], LogQuery())]
        assert [line["data"] for line in lines] == [b"ON"]


async def test_what_it_says_of_itself(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        status = agent.backend.status()
        assert (status["name"], status["shoal_name"], status["peers"]) == ("alone", "lab", 1)
        assert status["jobs"] == status["running"] == 0
        assert status["counters"]["bytes_in"] == status["bytes_received"] == 0
        (me,) = agent.backend.peers()
        assert me["self"] and me["state"] == "alive"
        assert agent.backend.config_view()["preset"]["value"] == "lan"


async def test_a_wrong_spec_names_its_place(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        with pytest.raises(RequestError) as caught:
            await agent.backend.submit({**process_job("true"), "Colour": "red"}, "")
        assert (caught.value.status, caught.value.path) == (400, "Colour")
        await refused(400, "at most 128", agent.backend.submit(process_job("true"), "k" * 129))
        mqtt = {"Broker": "home", "Topic": "a", "When": "a ="}
        trigger = process_job("true", Trigger={"Mqtt": mqtt})
        await refused(400, "no JMESPath", agent.backend.submit(trigger, ""))
        fired = {"Topic": "a", "Key": "k", "Input": "file"}
        by_hand = process_job("true", Fired=fired)
        await refused(400, "set by the agent", agent.backend.submit(by_hand, ""))


async def test_the_same_key_is_the_same_job_and_another_job_is_refused(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        first = await agent.backend.submit(process_job("true"), "key")
        again = await agent.backend.submit(process_job("true"), "key")
        assert again["job"] == first["job"] and again["unchanged"]
        other = agent.backend.submit(process_job("false"), "key")
        await refused(403, "used for another job", other)


async def test_unknown_and_ambiguous_names(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        for wanted in ("nobody", "zzzz", "a" * 32, "Ω", ""):
            await refused(404, "no job", agent.backend.job(wanted))
        for _ in range(2):
            await agent.backend.submit(process_job("true", name="twin"), "")
        await refused(409, "give more of the id", agent.backend.job("twin"))


async def test_a_waiting_job_is_stopped(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        wanted = [{"Key": "colour", "Operator": "=", "Values": ["red"]}]
        accepted = await agent.backend.submit(process_job("true", Constraints=wanted), "")
        view = await agent.backend.job(accepted["job"])
        assert view["state"] not in FINAL_STATES
        await agent.backend.stop(accepted["job"])
        assert (await ended(agent.backend, accepted["job"]))["state"] == "stopped"


async def test_a_full_disk_takes_no_new_work_and_still_answers(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.store._file.disk_full = True
        submission = agent.backend.submit(process_job("true"), "")
        await refused(507, "disk of this device is full", submission)
        await refused(507, "disk of this device is full", agent.backend.put_archive(chunks(b"x")))
        assert agent.backend.status()["name"] == "alone"


async def chunks(*data: bytes) -> AsyncGenerator[bytes, None]:
    for piece in data:
        yield piece


async def test_archives_and_invites(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        kept = await agent.backend.put_archive(chunks(b"ab", b"c"))
        assert kept["size"] == 3 and agent.archives.holds(kept["digest"])
        made = await agent.backend.invite(60, 1, [], {})
        assert made["token"].startswith("shoal1:")
        await refused(400, "no role 'king'", agent.backend.invite(60, 1, ["king"], {}))


async def test_result_files_that_are_gone_are_told_of(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_agent(data_dir) as agent:
        backend = agent.backend
        task = {"ResultPaths": [{"Name": "out", "Path": "out"}]}
        spec = process_job("sh", "-c", "echo x > out", Task=task)
        view = await ended(backend, (await backend.submit(spec, ""))["job"])
        (slot,) = view["slots"]
        assert await backend.missing(view["id"]) == []
        (data_dir / "results" / slot["archive"]).unlink()
        assert await backend.missing(view["id"]) == [{"slot": 0, "reason": GONE}]

        async def told(job: str) -> dict[str, Any]:
            """By a peer that says what it likes."""
            wrong = ({"executor": "x" * 999}, {"archive": "../shoal.db"}, {"archive": ""})
            slots = [slot | each | {"slot": number} for number, each in enumerate(wrong)]
            return view | {"slots": slots}

        monkeypatch.setattr(backend, "job", told)
        assert await backend.missing(view["id"]) == [
            {"slot": 0, "reason": "the device that ran it is not known here"},
            {"slot": 1, "reason": "'../shoal.db' is not a SHA-256"},
        ]


async def test_readers_of_logs_leave_nothing_behind(data_dir: Path) -> None:
    """Each reader follows the job's events; one that was forgotten would stay for ever."""
    async with running_agent(data_dir) as agent:
        accepted = await agent.backend.submit(process_job("echo", "x"), "")
        await ended(agent.backend, accepted["job"])
        for follow in (False, True):
            reader = agent.backend.logs(accepted["job"], LogQuery(follow=follow))
            assert len([line async for line in reader]) == 1
            await reader.aclose()
        unread = agent.backend.logs(accepted["job"], LogQuery(follow=True))
        await unread.aclose()
        await until(lambda: agent.feed.followers == 0)


async def test_a_daemon_runs_until_it_is_deleted(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        backend = agent.backend
        spec = {**process_job("sh", "-c", "echo up; exec sleep 1000", name="d"), "Type": "daemon"}
        del spec["Count"]
        accepted = await backend.submit(spec, "")
        await until(lambda: backend.status()["running"] == 1)
        await until(lambda: any(e["kind"] == "daemon.started" for e in backend.recent(0, None)))
        assert (await backend.job("d"))["state"] == "running"
        assert (await backend.submit(spec, ""))["unchanged"] is True
        await refused(403, "leave --key out", backend.submit({**spec, "Priority": 1}, "mine"))
        follow = backend.logs(accepted["job"], LogQuery(stream="stdout", follow=True))
        assert (await anext(follow))["data"] == b"up\n"
        await follow.aclose()
        answer = await backend.delete("d")
        assert (answer["quiet"], answer["stopping"], answer["unheard"]) == (1, [], [])
        assert backend.status()["running"] == 0
        assert (await backend.job(accepted["job"]))["state"] == "deleted"
        await refused(404, "no job 'd'", backend.job("d"))


async def test_a_batch_job_is_not_deleted(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        accepted = await agent.backend.submit(process_job("true", name="one"), "")
        await ended(agent.backend, accepted["job"])
        await refused(409, "a one-off job is not deleted", agent.backend.delete("one"))

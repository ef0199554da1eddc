"""Commands that show: peers, jobs, why, logs, events, doctor; and stop."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio

from agent.cli import units
from agent.cli.why import what_would_fit
from agent.jobfile import EXAMPLES, load_tree
from protocol.bidding import DRAINING, why_unfit
from protocol.config import PolicyConfig
from protocol.constraints import Constraint, Operator
from protocol.ids import PeerId
from protocol.messages import Facts, Requirements
from protocol.policy import Asked, misfit, unwell
from protocol.resources import Resources
from tests.agent.cli.conftest import Shoal
from tests.agent.cli.terminal import Terminal
from tests.agent.memory_agent import MemoryAgent
from tests.programs import started


def test_peers_are_a_table_for_people_and_a_list_for_programs(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    lines = shoal("peers").out.splitlines()
    assert lines[0].split()[:5] == ["NAME", "PEER", "STATE", "SINCE", "CPU"]
    assert lines[1].startswith("pi-kitchen  …")  # this device first, names before ids
    assert "this device" in lines[1] and "2.0 GiB" in lines[1]
    assert "dead (refused twice)" in lines[3] and "1 m 15 s" in lines[3]
    assert len({line.index("1 m 15 s") for line in lines[1:]}) == 1  # aligned
    assert len(shoal("peers", "--json").json["peers"]) == 3


def test_a_table_on_a_terminal_is_drawn_and_takes_no_orders_from_names(agent: MemoryAgent) -> None:
    with Terminal("peers") as terminal:
        assert terminal.wait() == 0
        shown = terminal.rest().decode()
    assert "\x1b[1m" in shown and "pi-attic" in shown
    with Terminal("peers", "--json") as terminal:
        assert terminal.wait() == 0
        assert '\n  "peers": [' in terminal.rest().decode().replace("\r", "")


def test_jobs_are_listed_newest_first_and_filtered(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("jobs").out.split() == ["NAME", "JOB", "TYPE", "STATE", "AGE", "ON"]
    first = shoal("run", "-d", "--name", "first", "--", "wait").out.strip()
    shoal("run", "-q", "--name", "second", "--", "exit", "3")
    rows = [line.split()[:4] for line in shoal("job", "list").out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["second", "first"]
    assert rows[0][3] == "failed" and rows[1][1] == first[:8]
    assert "pi-attic" in shoal("jobs").out
    assert len(shoal("jobs", "--state", "running", "--json").json["jobs"]) == 1
    assert len(shoal("jobs", "--limit", "1", "--json").json["jobs"]) == 1
    assert len(shoal("jobs", first[:8], "--json").json["jobs"]) == 1
    agent.backend.silent = ["pi-shed"]
    assert "no answer from pi-shed" in shoal("jobs").err


def test_a_job_is_described_by_name_or_by_the_beginning_of_its_id(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = shoal("run", "-d", "--name", "counter", "--", "wait").out.strip()
    for wanted in ("counter", job[:8], job):
        out = shoal("job", "describe", wanted).out
        assert f"Job          {job}" in out and "pi-attic" in out and '"Command": [' in out
    assert shoal("job", "describe", "counter", "--json").json["id"] == job
    shoal("run", "-d", "--name", "counter", "--", "wait")
    ended = shoal("job", "describe", "counter")
    assert ended.code == 1 and "may be any of" in ended.err and job[:8] in ended.err


def test_executions_are_shown_with_how_long_they_took(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    agent.backend.views[job]["executions"] = [
        {
            "id": "abcdefghij", "slot": 0, "peer": "12D3KooWxyz", "peer_name": "pi-attic",
            "state": "failed", "attempt": 2, "term": 1, "exit_code": 3, "reason": "exited",
            "started_ms": 1000, "ended_ms": 63_000,
        }
    ]  # fmt: skip
    assert shoal("job", "executions", job).out.splitlines()[1].split() == [
        "abcdefgh", "0", "1.2", "pi-attic", "failed", "3", "1", "m", "2", "s", "exited",
    ]  # fmt: skip
    assert shoal("job", "executions", job, "--json").json["executions"][0]["attempt"] == 2


def test_why_shows_everybody_who_was_asked_and_what_would_fit(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    out = shoal("why", job).out
    assert "for 1 slot: 3 peers, 1 bid" in out
    assert "pi-attic    bid 812, awarded slot 0: 3.2 cores free, 1.0 GiB memory free, 51 °C" in out
    assert "pi-kitchen  refused: cpu: needs 4000m, 1000m free" in out
    assert "-> fits with --cpu 1000m, or once more is free" in out
    assert "pi-shed     was not asked: label arch: wanted 'arm64', found 'amd64'" in out
    assert "-> fits without that constraint, or with the label arch=arm64 on that device" in out
    assert shoal("job", "why", job, "--json").json["why"][0]["asked"][0]["score"] == 812
    agent.backend.views[job]["why"] = []
    assert "nobody has been asked yet" in shoal("why", job).out


def test_what_would_fit_reads_the_protocols_own_sentences() -> None:
    def hint(reason: str | None) -> str:
        return what_would_fit({"answer": "refused", "reason": reason})

    needs = Resources(cpu_m=4000, memory_bytes=2**30)
    assert hint(needs.shortfall(Resources(cpu_m=1000, memory_bytes=2**29))) == (
        "fits with --cpu 1, or once more is free; fits with --memory 512Mi, or once more is free"
    )
    assert hint(Resources(cpu_m=1).shortfall(Resources())) == "fits once cpu is free there"
    for operator, values in (
        (Operator.IN, ("a", "b")), (Operator.NOT_IN, ("x",)), (Operator.EXISTS, ()),
        (Operator.NOT_EXISTS, ()), (Operator.GREATER, ("4",)), (Operator.NOT_EQUAL, ("x",)),
    ):  # fmt: skip
        reason = Constraint("zone", operator, values).explain(
            {} if values != ("x",) else {"zone": "x"}
        )
        if reason is not None:
            assert "constraint" in hint(reason), reason
    assert hint(DRAINING) == "fits once its owner runs `shoal peer undrain` there"
    assert hint("something new") == "" and hint(None) == ""
    assert what_would_fit({"answer": "bid", "reason": ""}) == ""
    assert "undrain" in what_would_fit({"answer": "bid", "reason": f"declined: {DRAINING}"})


ASKED = Asked("batch", "process", "default", PeerId("p"), "attic", ("submit",), 90)


@pytest.mark.parametrize(
    ("policy", "facts", "hint"),
    [
        (PolicyConfig(types=("ops", "service")), {}, 'fits as a job of type "ops", "service"'),
        (PolicyConfig(engines=("docker",)), {}, 'fits with engine "docker"'),
        (PolicyConfig(namespaces=("lab",)), {}, 'fits in namespace "lab"'),
        (PolicyConfig(authors=("x",)), {}, "fits from a device its owner trusts"),
        (PolicyConfig(roles=("operate",)), {}, 'fits from a device with role "operate"'),
        (PolicyConfig(job_timeout_max_s=60), {}, "fits with --timeout 60 or less"),
        (PolicyConfig(), {"temperature_mc": 90_000}, "fits once it has cooled"),
        (PolicyConfig(mains_only=True), {"mains": 0}, "fits once it is on mains power again"),
        (PolicyConfig(), {"mains": 0, "battery_percent": 5}, "fits once it is charged to 20 %"),
        (PolicyConfig(hours=("22:00-06:00",)), {}, 'fits within its hours: "22:00-06:00"'),
    ],
)
def test_every_line_of_the_owners_policy_says_what_would_fit(
    policy: PolicyConfig, facts: dict[str, int], hint: str
) -> None:
    reason = misfit(policy, ASKED) or unwell(policy, Facts(**facts), 12 * 60)
    assert what_would_fit({"answer": "refused", "reason": reason}).startswith(hint)


@pytest.mark.parametrize(
    ("engine", "hint"),
    [
        (
            "wasm",
            "sudo scripts/install --wasm where it is a service, else pip install 'shoal[wasm]'",
        ),
        ("docker", "sudo scripts/install --docker where it is a service"),
        ("later", "fits with an engine that it has"),
    ],
)
def test_an_engine_that_is_not_there_is_told_of_with_how_to_have_it(engine: str, hint: str) -> None:
    reason = why_unfit(Requirements(engine, 1, 1, 0, 0), ("process",), {}, Resources(4000, 1 << 30))
    found = what_would_fit({"answer": "refused", "reason": reason})
    assert found.startswith("fits with an engine that it has") and found.endswith(hint)


def test_a_device_that_does_not_know_the_time_fits_once_it_does() -> None:
    reason = unwell(PolicyConfig(hours=("22:00-06:00",)), Facts(), -1)
    hint = what_would_fit({"answer": "refused", "reason": reason})
    assert hint == "fits once it has the time from a network, within its hours"


def test_logs_by_slot_stream_and_tail(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--count", "2", "--", "wait").out.strip()
    agent.call(agent.backend.write, job, "one\n", 0)
    agent.call(agent.backend.write, job, "two\n", 1, "stderr")
    ended = shoal("logs", job)
    assert (ended.out, ended.err) == ("[0] one\n", "[1] two\n")
    assert shoal("job", "logs", job, "--slot", "0").out == "one\n"
    assert shoal("logs", job, "--stream", "stdout").err == ""
    assert [line["slot"] for line in shoal("logs", job, "--json").lines] == [0, 1]
    agent.call(agent.backend.finish, job, 0)
    assert shoal("logs", "-f", job).out == "[0] one\n"
    assert shoal("logs", "absent").code == 4


def test_logs_of_what_there_is_not_are_no_silence(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--name", "two", "--count", "2", "--", "wait").out.strip()
    agent.call(agent.backend.write, job, "one\n", 0)
    ended = shoal("logs", job, "--slot", "9")
    assert ended.code == 4 and "two has no slot 9, but slots 0 to 1" in ended.err
    ended = shoal("logs", job, "--peer", "nosuch")
    assert ended.code == 4 and "two has not run on nosuch; it has run on " in ended.err
    place = agent.backend.views[job]["slots"][0]
    for peer in (place["executor"], place["executor_name"]):
        assert shoal("logs", job, "--peer", peer).code == 0
    assert "--tail: -5 is out of range" in shoal("logs", job, "--tail", "-5").err
    for text in ("yesterday", "10 parsecs"):
        ended = shoal("logs", job, "--since", text)
        assert ended.code == 2 and "15m" in ended.err and "2027-03-01T06:00:00Z" in ended.err
    assert shoal("logs", job, "--since", "2026-13-01T00:00:00Z").code == 2
    assert shoal("logs", job, "--since", "10m").code == 0


def test_what_of_an_output_is_not_kept_is_told_beside_it(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--count", "2", "--", "wait").out.strip()
    agent.call(agent.backend.write, job, "one\n", 0)
    told = {"executor": "p1", "executor_name": "attic", "output_note": "5 bytes are gone"}
    agent.backend.views[job]["slots"][0] |= told
    note = "of the output on attic: 5 bytes are gone"
    ended = shoal("logs", job, "--json")
    assert note in ended.err and [line["slot"] for line in ended.lines] == [0], "and no line more"
    for words, shown in (
        ((), True),
        (("--slot", "0"), True),
        (("--slot", "1"), False),
        (("--peer", "p1"), True),
        (("--peer", "attic"), True),
        (("--peer", agent.backend.views[job]["slots"][1]["executor"]), False),
    ):
        assert (note in shoal("logs", job, *words).err) is shown, words
    assert "Output of 0: 5 bytes are gone" in shoal("job", "describe", job).out
    agent.call(agent.backend.finish, job, 0)
    assert note in shoal("logs", "-f", job).err, "as it was at its end"


def away(agent: MemoryAgent, job: str, peer: str, missing: bool = True, **more: Any) -> None:
    told = {"note": "cannot be had: it is away", "cause": "unreachable", "missing": missing, **more}

    def write() -> None:
        for stream in ("stdout", "stderr"):
            agent.backend.write(job, b"", 0, stream, peer, **told)

    agent.call(write)


def test_output_that_cannot_be_had_is_no_empty_output(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--count", "2", "--", "wait").out.strip()
    agent.call(agent.backend.write, job, "one\n", 1)
    away(agent, job, "pi-attic")
    ended = shoal("logs", job)
    assert (ended.code, ended.out) == (1, "[1] one\n")
    once = "shoal: output on pi-attic cannot be had: it is away\n"
    assert ended.err == once
    agent.call(agent.backend.finish, job, 0)
    for more in ((), ("-f",)):
        ended = shoal("logs", job, "--json", *more)
        assert (ended.code, ended.err) == (1, once)
        first, *notes = ended.lines
        assert "note" not in first and [note["stream"] for note in notes] == ["stdout", "stderr"]
        for note in notes:
            assert (note["data"], note["missing"], note["cause"]) == ("", True, "unreachable")


def test_devices_that_are_away_are_told_of_together(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    for number in range(11):
        away(agent, job, f"pi-{number}")
    away(agent, job, "pi-shed", note="breaks off: it is away")
    names = ", ".join(f"pi-{number}" for number in range(8))
    assert shoal("logs", job).err.splitlines() == [
        f"shoal: output on {names} and 3 more cannot be had: it is away",
        "shoal: output on pi-shed breaks off: it is away",
    ]


def test_who_waits_for_a_device_is_told_while_it_is_asked(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    away(agent, job, "pi-attic", False, note="is waited for", cause="waiting")
    pause = agent.backend.log_pause = trio.Event()
    with Terminal("logs", job) as terminal:
        terminal.until(b"shoal: output on pi-attic is waited for")
        away(agent, job, "pi-attic")
        agent.call(pause.set)
        assert terminal.wait() == 1
        assert b"shoal: output on pi-attic cannot be had: it is away" in terminal.rest()


def test_of_many_who_are_waited_for_some_are_named(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    for number in range(20):
        away(agent, job, f"pi-{number}", False, note="is waited for", cause="waiting")
    ended = shoal("logs", job)
    assert ended.code == 0 and len(ended.err.splitlines()) == 8


def test_output_that_is_had_by_another_way_is_no_failure(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    agent.call(agent.backend.write, job, "all of it\n")
    away(agent, job, "pi-attic", missing=False, note="is as it came with the result: it is away")
    ended = shoal("logs", job)
    assert (ended.code, ended.out) == (0, "all of it\n")
    assert ended.err == "shoal: output on pi-attic is as it came with the result: it is away\n"


def test_who_follows_hears_of_a_device_each_time_it_goes(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    for text in ("one\n", "two\n"):
        away(agent, job, "pi-attic", missing=False)
        away(agent, job, "pi-attic", missing=False)
        agent.call(agent.backend.write, job, text)
    agent.call(agent.backend.finish, job, 0)
    ended = shoal("logs", "-f", job)
    assert (ended.code, ended.out) == (0, "one\ntwo\n")
    assert ended.err == "shoal: output on pi-attic cannot be had: it is away\n" * 2


@pytest.mark.parametrize("waited", [False, True])
def test_what_stands_in_for_one_stream_does_not_tell_of_the_other_again(
    agent: MemoryAgent, shoal: Shoal, waited: bool
) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    if waited:
        away(agent, job, "pi-attic", False, note="is waited for", cause="waiting")
    told = {"note": "may not be all: it is away", "cause": "unreachable", "missing": True}
    agent.call(lambda: agent.backend.write(job, b"", 0, "stderr", **told))
    agent.call(agent.backend.write, job, "the end\n")
    agent.call(lambda: agent.backend.write(job, b"", 0, "stdout", **told))
    agent.call(agent.backend.finish, job, 0)
    for more in ((), ("-f",)):
        ended = shoal("logs", job, *more)
        assert (ended.code, ended.out) == (1, "the end\n")
        assert ended.err.count("output on pi-attic may not be all: it is away\n") == 1


def test_who_waits_for_a_run_hears_that_its_output_cannot_be_had(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = shoal("run", "-d", "--key", "k", "--", "wait").out.strip()
    away(agent, job, "pi-attic")
    agent.call(agent.backend.finish, job, 0)
    for words in ((), ("-q",), ("--json",)):
        ended = shoal("run", *words, "--key", "k", "--", "wait")
        assert ended.code == 0, "how the task ended"
        assert ended.err.count("shoal: output on pi-attic cannot be had: it is away\n") == 1, words


def test_stopping_several_goes_on_after_a_refusal(agent: MemoryAgent, shoal: Shoal) -> None:
    one = shoal("run", "-d", "--", "wait").out.strip()
    two = shoal("run", "-d", "--", "wait").out.strip()
    ended = shoal("stop", one, "absent", two)
    assert ended.code == 4 and "absent" in ended.err
    assert [agent.backend.views[job]["state"] for job in (one, two)] == ["stopped", "stopped"]
    assert shoal("job", "stop", one, "--json").json["stopped"][0]["job"] == one


def test_events_of_all_or_of_one_job(agent: MemoryAgent, shoal: Shoal) -> None:
    agent.call(agent.backend.feed.tell, "peer.joined", "pi-attic joined\x1b[0m")
    job = shoal("run", "-q", "-d", "--", "wait").out.strip()
    lines = shoal("events").out.splitlines()
    assert lines[0].endswith("  pi-attic joined\\x1b[0m")
    assert f"  {job[:8]}  accepted" in lines[1]
    kinds = [event["kind"] for event in shoal("events", "--job", job, "--json").lines]
    assert kinds[0] == "job.accepted"
    last = shoal("events", "--json").lines[-1]["seq"]
    assert shoal("events", "--since", str(last)).out == ""


def test_events_are_followed_as_they_happen(agent: MemoryAgent) -> None:
    with started(
        [sys.executable, "-m", "agent.cli.entry", "events", "-f"], stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        for i in range(3):
            agent.call(agent.backend.feed.tell, "tick", f"tick {i}")
            assert f"tick {i}" in following.stdout.readline()
        following.terminate()


def test_the_doctor_checks_the_device_and_its_agent(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("doctor")
    assert ended.code == 1
    assert "ok   clock: synchronised" in ended.out
    assert "bad  user: tasks run as you\n     -> run as root" in ended.out
    assert "?    battery: cannot be told here" in ended.out
    assert ended.out.startswith("ok   data directory")
    assert [check["ok"] for check in shoal("doctor", "--json").json["checks"]].count(False) == 1


def test_the_doctor_works_without_an_agent(shoal: Shoal, tmp_path: Path) -> None:
    ended = shoal("doctor")
    assert ended.code == 1
    assert "bad  data directory" in ended.out and "shoal init" in ended.out
    assert "bad  agent: no agent is running" in ended.out
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    assert "chmod go-w" in shoal("doctor").out


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_are_valid_and_fit_the_schema(shoal: Shoal, kind: str) -> None:
    text = shoal("job", "example", kind).out
    Path("job.yaml").write_text(text)
    assert shoal("job", "validate", "job.yaml").code == 0
    assert shoal("job", "validate", "job.yaml", "--json").json["Name"]
    jsonschema.validate(load_tree(text)[0], shoal("job", "schema").json)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"), (0, "0.0 s"), (0.44, "0.4 s"), (12.4, "12 s"), (60, "1 m"), (200, "3 m 20 s"),
        (7500, "2 h 5 m"), (356_400, "4 d 3 h"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_sizes_and_cores_for_people() -> None:
    assert [units.size(n) for n in (0, 1023, 64 * 2**20, 1536 * 2**20, 5 * 2**40)] == [
        "0 B", "1023 B", "64 MiB", "1.5 GiB", "5.0 TiB",
    ]  # fmt: skip
    assert [units.cores(m) for m in (4000, 250, 3200)] == ["4", "0.25", "3.2"]

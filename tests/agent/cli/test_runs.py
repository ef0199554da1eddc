"""`shoal run`, `job run` and `job wait`, against an agent in memory."""

import _thread
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import exitcodes, following, shipping
from agent.cli.exitcodes import CliError
from agent.jobfile import example
from protocol.job import JobSpec
from tests.agent.cli.conftest import Shoal
from tests.agent.cli.terminal import Terminal
from tests.agent.memory_agent import MemoryAgent
from tests.programs import started


def submitted(agent: MemoryAgent) -> dict[str, Any]:
    return dict(agent.backend.submitted[-1])


def test_output_goes_where_the_task_wrote_it_and_its_exit_code_is_ours(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    ended = shoal("run", "--", "echo", "hi", "there")
    assert (ended.code, ended.out) == (0, "hi there\n")
    assert shoal("run", "-q", "--", "warn", "oops").err == "oops\n"
    assert shoal("run", "--", "exit", "7").code == 7
    ended = shoal("run", "--", "fault")
    assert ended.code == exitcodes.NO_RESULT and "shoal why" in ended.err


def test_bytes_that_are_no_text_arrive_as_they_are(agent: MemoryAgent) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "agent.cli.entry", "run", "-q", "--", "raw"],
        capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert ended.stdout == b"\xff\xfe\n"


def test_progress_is_plain_lines_where_nobody_watches(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("run", "--", "echo", "hi")
    assert ended.err.splitlines() == [
        "shoal: accepted, on 2 peers",
        "shoal: asking 3 peers",
        "shoal: 3 bids",
        "shoal: awarded to pi-attic",
        "shoal: running on pi-attic",
        "shoal: slot 0 ended",
        "shoal: job completed",
        "shoal: done on pi-attic",
    ]
    assert shoal("run", "-q", "--", "echo", "hi").err == ""


def test_who_wants_quiet_hears_why_there_is_no_exit_code(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("run", "-q", "--", "fault")
    assert ended.code == exitcodes.NO_RESULT and ended.out == ""
    assert re.fullmatch(r"shoal: failed.*`shoal why [a-z0-9]{8}`\n", ended.err), ended.err
    assert json.loads(shoal("run", "--json", "--", "fault").out.splitlines()[-1])["final"]
    failed = shoal("run", "-q", "--", "exit", "3")
    assert (failed.code, failed.err) == (3, "")


def test_several_slots_are_told_apart_and_the_worst_counts(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    assert shoal("run", "--count", "3", "--", "echo", "hi").out == "[0] hi\n[1] hi\n[2] hi\n"
    views = {
        (0, 0): 0, (0, 3): 3, (None, 9): 9, (None, 0): 125, (300, 1): 255,
    }  # fmt: skip
    for codes, expected in views.items():
        state = "completed" if codes == (0, 0) else "failed"
        view = {"state": state, "slots": [{"exit_code": code} for code in codes]}
        assert exitcodes.of_job(view) == expected


def test_flags_become_the_spec(
    agent: MemoryAgent, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")
    ended = shoal(
        "run", "--count", "2", "--cpu", "0.5", "--memory", "64Mi", "--disk", "1Gi",
        "--timeout", "15m", "--queue-timeout", "0", "--env", "A=b=c", "-e", "FROM_HERE",
        "--constraint", "arch=arm64,!camera", "--constraint", "ram>4", "--name", "my job",
        "--namespace", "lab", "--retry", "3", "-o", "out/", "--output", "/data/log.txt", "-q",
        "echo", "--flag", "-x", "hi",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    spec = JobSpec.from_plain(submitted(agent))
    assert (spec.name, spec.namespace, spec.count) == ("my job", "lab", 2)
    assert spec.task.engine.process.command == ("echo", "--flag", "-x", "hi")
    assert (spec.task.resources.cpu_m, spec.task.resources.memory_bytes) == (500, 64 * 1024**2)
    assert (spec.task.timeouts.execution_s, spec.task.timeouts.queue_s) == (900, 0)
    assert spec.task.env == {"A": "b=c", "FROM_HERE": "yes"}
    assert [str(constraint) for constraint in spec.constraints] == [
        "arch=arm64",
        "!camera",
        "ram>4",
    ]
    assert spec.retry.attempts == 3 and "failure" in spec.retry.on
    kept = [(path.name, path.path) for path in spec.task.result_paths]
    assert kept == [("out", "out"), ("log.txt", "/data/log.txt")]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("/usr/bin/wc", "-l"), "wc"), (("python3", "-u", "dir/detect.py", "x.csv"), "detect.py"),
        (("sh", "-c", "exit 3"), "sh"), (("env", "A=1", "ls"), "env"), (("/",), "run"),
        (("Küche!",), "K-che"), (("a" * 100,), "a" * 63),
    ],
)  # fmt: skip
def test_a_job_without_a_name_is_called_after_its_command(
    agent: MemoryAgent, shoal: Shoal, command: tuple[str, ...], name: str
) -> None:
    assert shoal("run", "-q", "--", *command).code == 0
    assert JobSpec.from_plain(submitted(agent)).name == name


def test_arguments_that_are_no_text_are_refused(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("run", "--", "echo", "\udcff")
    assert ended.code == 2 and "not UTF-8" in ended.err
    assert shoal("job", "describe", "\udcff").code == 4


def test_what_follows_the_dashes_is_the_tasks_own(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("run", "-q", "--", "echo", "--count", "--", "-f").out == "--count -- -f\n"
    plain = submitted(agent)
    assert plain["Name"] == "echo" and JobSpec.from_plain(plain).retry.attempts == 3
    shoal("run", "-q", "--retry", "1", "--", "echo")
    assert JobSpec.from_plain(submitted(agent)).retry.attempts == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--env", "NOT_HERE_AT_ALL"), "--env NOT_HERE_AT_ALL: there is no such variable"),
        (("--constraint", "zone in"), "--constraint: cannot read"),
        (("--constraint", "a=b=c"), "--constraint: cannot read"),
        (("-f", "absent"), "-f absent: no such file"),
        (("-f", "."), "ship what is in it with -C ."),
        (("-C", "absent"), "-C absent: there is no such directory"),
    ],
)
def test_wrong_flags_submit_nothing(
    agent: MemoryAgent, shoal: Shoal, words: tuple[str, ...], text: str
) -> None:
    ended = shoal("run", *words, "--", "echo")
    assert (ended.code, text in ended.err) == (2, True), ended
    assert agent.backend.submitted == []


def test_files_are_shipped_with_their_modes(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("bin").mkdir()
    Path("bin/detect.sh").write_text("#!/bin/sh\n")
    Path("bin/detect.sh").chmod(0o755)
    Path("data.csv").write_text("1,2\n")
    ended = shoal(
        "run", "-q", "-f", "data.csv", "-f", "bin/detect.sh", "--", "./bin/detect.sh", "./data.csv"
    )
    assert ended.code == 0, ended.err
    (source,) = JobSpec.from_plain(submitted(agent)).task.input_sources
    data = agent.backend.archives[source.source.digest]
    assert (source.target, source.source.size_bytes) == (".", len(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
    assert [(m.name, m.mode, m.mtime, m.uid, m.uname) for m in members] == [
        ("bin/detect.sh", 0o755, 0, 0, ""),
        ("data.csv", 0o644 & members[1].mode, 0, 0, ""),
    ]


def test_the_same_files_are_the_same_archive(agent: MemoryAgent, shoal: Shoal) -> None:
    for i, names in enumerate((("a", "b"), ("b", "a"))):
        for name in ("a", "b"):
            Path(name).write_text(name)
            os.utime(name, (i * 1000, i * 1000))
        shoal("run", "-q", "-f", names[0], "-f", names[1], "--", "echo")
    assert len(agent.backend.archives) == 1


def test_a_directory_ships_what_is_in_it_and_no_links(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("d/sub").mkdir(parents=True)
    Path("d/sub/x").write_text("x")
    Path("d/run.sh").write_text("#!/bin/sh\n")
    Path("d/run.sh").chmod(0o755)
    Path("d/link").symlink_to("/etc/passwd")
    os.mkfifo("d/pipe")
    ended = shoal("run", "-C", "d", "--", "./run.sh")
    assert "not shipped, being no regular files: d/link, d/pipe" in ended.err
    (data,) = agent.backend.archives.values()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["run.sh", "sub/x"]
    assert ended.code == 0


def test_files_from_elsewhere_go_by_their_last_part_and_never_twice(
    agent: MemoryAgent, shoal: Shoal, tmp_path: Path
) -> None:
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "x").write_text(directory)
    shoal("run", "-q", "-f", "../one/x", "--", "echo")
    (data,) = agent.backend.archives.values()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["x"]
    ended = shoal("run", "-f", "../one/x", "-f", str(tmp_path / "two/x"), "--", "echo")
    assert ended.code == 2 and "would both be x there" in ended.err


def test_a_directory_may_change_while_it_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in "abc":
        (tree / name).write_text(name)
    lstat = os.lstat

    def vanishing(path: str) -> os.stat_result:
        if path == str(tree / "b"):
            os.unlink(path)
        return lstat(path)

    monkeypatch.setattr(shipping.os, "lstat", vanishing)
    found = shipping.collect([], str(tree))
    assert sorted(found) == ["a", "c"]
    (tree / "c").unlink()
    with pytest.raises(CliError, match="c: no such file or directory"):
        shipping.pack(found)
    monkeypatch.setattr(shipping, "FILES_MAX", 1)
    (tree / "d").touch()
    with pytest.raises(CliError, match="more than 1 files"):
        shipping.collect([], str(tree))


def test_a_path_that_was_not_shipped_is_an_error_that_names_the_flag(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    Path("detect.sh").write_text("#!/bin/sh\n")
    for words in (("./detect.sh",), ("./detect.sh", "-v")):
        ended = shoal("run", "--", *words)
        assert ended.err == (
            "shoal: ./detect.sh is not on the other devices: ship it with -f detect.sh\n"
        )
        assert ended.code == 2
    assert "-f bin/tool" in shoal("run", "--", "bin/tool").err
    assert "ship it with -f detect.sh" in shoal("run", "--", "sh", "./detect.sh").err
    assert "chmod +x" in shoal("run", "-f", "detect.sh", "--", "./detect.sh").err
    assert agent.backend.submitted == []
    assert shoal("run", "-q", "--", "/bin/true").code == 0
    assert shoal("run", "-q", "-f", "detect.sh", "--", "echo", "./made-by-the-task").code == 0


def test_a_container_is_run_as_bacalhaus_users_type_it(agent: MemoryAgent, shoal: Shoal) -> None:
    """Flag for flag of `bacalhau docker run --help`, with the meaning that they have there."""
    ended = shoal(
        "docker", "run", "-d", "--follow", "--concurrency", "2", "--priority", "7",
        "-l", "team=lab,nightly", "-s", "arch=arm64,zone!=b", "--task-name", "first",
        "-i", "https://example.org:8443/a.csv:/data", "-i", "s3://readings/day/*,dst=/days",
        "-i", "src=file:///srv/in,dst=/own,opt=rw=true",
        "-o", "outputs:/outputs", "-p", "s3://results/{executionID},opt=region=eu-west-1",
        "-p", "8080:80",
        "--entrypoint", "/bin/sh,-c", "-w", "/work", "--network", "Full", "busybox:1.37.0",
        "--", "ls /inputs",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    spec = JobSpec.from_plain(submitted(agent))
    assert (spec.count, spec.priority, spec.labels) == (2, 7, {"team": "lab", "nightly": ""})
    assert [str(each) for each in spec.constraints] == ["arch=arm64", "zone!=b"]
    task = spec.task
    assert task.name == "first"
    sources = {each.target: each.source.to_plain() for each in task.input_sources}
    assert [*sources] == ["/data", "/days", "/own"]
    assert sources["/data"]["Params"] == {"URL": "https://example.org:8443/a.csv"}
    assert sources["/days"]["Params"] == {"Bucket": "readings", "Key": "day/"}
    assert sources["/own"]["Params"] == {"SourcePath": "/srv/in", "ReadWrite": True}
    assert [(each.name, each.path) for each in task.result_paths] == [("outputs", "/outputs")]
    place = {"Bucket": "results", "Key": "{executionID}"}
    assert task.publisher.to_plain() == {
        "Type": "s3",
        "Params": {**place, "Region": "eu-west-1", "Encoding": "gzip"},
    }
    params = task.engine.container
    assert (params.entrypoint, params.parameters) == (("/bin/sh", "-c"), ("ls /inputs",))
    assert (task.network.type, [port.static for port in task.network.ports]) == ("host", [8080])
    assert shoal("docker", "run", "-d", "--entrypoint", "", "busybox:1.37.0", "env").code == 0
    assert JobSpec.from_plain(submitted(agent)).task.engine.container.entrypoint == ()


def test_a_job_file_of_what_was_typed_is_printed_and_nothing_runs(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    words = ("docker", "run", "--dry-run", "-o", "out:/out", "busybox:1.37.0", "echo", "grüezi")
    printed = shoal(*words)
    assert printed.code == 0 and agent.backend.submitted == []
    Path("job.yaml").write_text(printed.out)
    assert shoal("job", "run", "job.yaml").code == 0
    task = JobSpec.from_plain(submitted(agent)).task
    assert task.engine.container.parameters == ("echo", "grüezi")
    assert [(each.name, each.path) for each in task.result_paths] == [("out", "/out")]
    Path("x").touch()
    refused = shoal("run", "--dry-run", "-f", "x", "--", "cat", "x")
    assert refused.code == 2 and "a job file ships no files, as x" in refused.err
    wrong = shoal("run", "--dry-run", "--memory", "many", "--", "true")
    assert wrong.code == 2 and wrong.err.startswith("shoal: --memory: "), wrong
    assert len(agent.backend.submitted) == 1


def test_a_target_of_all_is_every_device_that_matches(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("docker", "run", "-d", "--target", "all", "busybox:1.37.0", "env").code == 0
    assert JobSpec.from_plain(submitted(agent)).type == "ops"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-i", "ipfs://QmX:/in"), "--input ipfs://QmX:/in: no inputs of ipfs here"),
        (("-i", "s3://b/key"), "--input: 'b' is not a name"),
        (("-i", "peer://abc,opt=size=1"), "--input: 'abc' is not a digest"),
        (("-p", "ipfs"), "--publisher: 'ipfs' is not a publisher"),
        (("-p", "s3managed"), "--publisher: 's3managed' is not a publisher"),
        (("-p", "local", "--publisher", "local"), "--publisher: more than one"),
        (("--network", "HTTP"), "--network: 'HTTP' is not a network"),
        (("--domain", "example.org"), "--domain: filtering by domain"),
        (("-o", "/data/12:00"), "a path with a colon needs a name"),
        (("-l", "team=" + "x" * 999), "--labels"),
        (("--priority", "101"), "--priority: 101 is out of range"),
    ],
)
def test_what_is_not_there_of_bacalhaus_flags_is_refused_by_name(
    agent: MemoryAgent, shoal: Shoal, words: tuple[str, ...], text: str
) -> None:
    ended = shoal("docker", "run", "-d", *words, "busybox:1.37.0", "true")
    assert (ended.code, text in ended.err) == (2, True), ended
    assert agent.backend.submitted == []


def test_modules_come_from_inputs_too(agent: MemoryAgent, shoal: Shoal) -> None:
    """As `bacalhau wasm run`: a source, what another has as its target, and what is linked."""
    Path("lib.wasm").write_bytes(b"\0asm\1\0\0\0")
    lib = "s3://mods/math.wasm:/app/math.wasm"
    words = ("-I", "lib.wasm", "-I", lib, "https://example.org/count.wasm:/app/count.wasm", "a")
    ended = shoal("wasm", "run", "-d", *words)
    assert ended.code == 0, ended.err
    task = JobSpec.from_plain(submitted(agent)).task
    assert task.engine.wasm.entry_module == "/app/count.wasm"
    assert task.engine.wasm.import_modules == ("lib.wasm", "/app/math.wasm")
    assert task.engine.wasm.parameters == ("a",)
    targets = [each.target for each in task.input_sources]
    assert targets == [".", "/app/count.wasm", "/app/math.wasm"]
    words = ("-i", "https://example.org/m.wasm:/m.wasm", "/m.wasm", "x")
    assert shoal("wasm", "run", "-d", *words).code == 0
    assert JobSpec.from_plain(submitted(agent)).task.engine.wasm.entry_module == "/m.wasm"
    assert shoal("wasm", "run", "-d", "-I", "lib.wasm:/app/l.wasm", "lib.wasm").code == 0
    wasm = JobSpec.from_plain(submitted(agent)).task.engine.wasm
    assert (wasm.entry_module, wasm.import_modules) == ("lib.wasm", ("/app/l.wasm",))
    with tarfile.open(fileobj=io.BytesIO([*agent.backend.archives.values()][-1])) as opened:
        assert opened.getnames() == ["app/l.wasm", "lib.wasm"]
    Path("other.wasm").write_bytes(b"\0asm")
    twice = shoal("wasm", "run", "-d", "-I", "other.wasm:/lib.wasm", "lib.wasm")
    assert twice.code == 2 and "would both be lib.wasm there" in twice.err
    nowhere = shoal("wasm", "run", "-d", "-I", "https://example.org/l.wasm", "lib.wasm")
    assert nowhere.code == 2 and "where is it to be?" in nowhere.err


def test_a_module_is_shipped_and_named(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("mods").mkdir()
    Path("mods/count.wasm").write_bytes(b"\0asm\1\0\0\0")
    Path("text").write_text("x")
    flags = ("-d", "--entry-point", "main", "--fuel", "1000", "-f", "text", "--memory", "16Mi")
    ended = shoal("wasm", "run", *flags, "mods/count.wasm", "--lines", "text")
    assert ended.code == 0, ended.err
    spec = JobSpec.from_plain(submitted(agent))
    params = spec.task.engine.wasm
    assert (spec.name, params.entry_module) == ("count", "mods/count.wasm")
    assert (params.entry_point, params.fuel) == ("main", 1000)
    assert params.parameters == ("--lines", "text")
    assert [source.target for source in spec.task.input_sources] == ["."]
    (archive,) = agent.backend.archives.values()
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getnames() == ["mods/count.wasm", "text"]


def test_a_module_of_a_directory_that_is_shipped_goes_once(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    Path("mods").mkdir()
    Path("mods/count.wasm").write_bytes(b"\0asm")
    assert shoal("wasm", "run", "-d", "-C", "mods", "mods/count.wasm").code == 0
    assert submitted(agent)["Tasks"][0]["Engine"]["Params"]["EntryModule"] == "count.wasm"
    Path("other").mkdir()
    Path("other/count.wasm").write_bytes(b"\0asm")
    os.chdir("other")
    ended = shoal("wasm", "run", "-d", "-C", "../mods", "count.wasm")
    assert ended.code == 2 and "would both be count.wasm there" in ended.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("absent.wasm",), "absent.wasm: no such file"),
        (("text.wat",), "text.wat is not a WebAssembly module in its binary form"),
        (("--fuel", "-1", "m.wasm"), "--fuel: -1 is out of range"),
        (("--entry-point", "a\nb", "m.wasm"), "--entry-point: 'a?b' is not a function's name"),
    ],
)
def test_what_is_no_module_submits_nothing(
    agent: MemoryAgent, shoal: Shoal, words: tuple[str, ...], text: str
) -> None:
    Path("text.wat").write_text("(module)")
    Path("m.wasm").write_bytes(b"\0asm")
    ended = shoal("wasm", "run", "-d", *words)
    assert (ended.code, text in ended.err) == (2, True), ended
    assert agent.backend.submitted == []


def test_too_much_is_not_shipped(agent: MemoryAgent, shoal: Shoal) -> None:
    with open("large", "wb") as file:
        file.truncate(16 * 1024**2 + 1)
    ended = shoal("run", "-f", "large", "--", "echo")
    assert ended.code == 2 and "allowed: 16777216" in ended.err


def test_detached_prints_the_id_alone(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("run", "-d", "--name", "n", "--key", "k", "--", "wait")
    job = ended.out.strip()
    assert agent.backend.views[job]["name"] == "n"
    assert ended.err == "shoal: n: accepted, kept on 2 devices\n"
    assert "nothing changed" in shoal("run", "-d", "--name", "n", "--key", "k", "--", "wait").err
    assert shoal("run", "-d", "--json", "--key", "k", "--", "wait").json["unchanged"] is True


def test_its_id_alone_is_printed_and_it_is_waited_for_in_silence_as_in_bacalhau(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    ended = shoal("run", "--id-only", "--name", "n", "--", "exit", "4")
    assert agent.backend.views[ended.out.strip()]["state"] == "failed"
    assert (ended.code, ended.out, ended.err) == (4, f"{ended.out.strip()}\n", "")
    said = shoal("run", "--id-only", "--", "echo", "hi")
    assert (said.code, len(said.out.split()), said.err) == (0, 1, ""), "and no output of its task"
    followed = shoal("run", "--id-only", "--follow", "--", "echo", "hi").out.splitlines()
    assert (followed[0] in agent.backend.views, followed[1:]) == (True, ["hi"])
    left = shoal("run", "--id-only", "-d", "--", "wait").out.strip()
    assert agent.backend.views[left]["state"] == "running"
    assert "submitted" in shoal("run", "--id-only", "--json", "--", "echo", "hi").lines[0]


def test_json_is_every_line_of_the_stream(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("run", "--json", "--", "exit", "4")
    assert ended.code == 4 and ended.err == ""
    assert "submitted" in ended.lines[0] and ended.lines[-1]["final"]["state"] == "failed"


def test_a_job_file_is_submitted_or_waited_for(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("job.yaml").write_text(
        "Type: batch\nName: counted\nCount: 2\nTasks:\n  - Name: main\n    Engine:\n"
        "      Type: process\n      Params:\n        Command: [echo, hi]\n"
    )
    job = shoal("job", "run", "job.yaml").out.strip()
    assert agent.backend.views[job]["name"] == "counted"
    assert shoal("job", "run", "job.yaml", "--wait").out == ""
    assert shoal("job", "run", "job.yaml", "--follow").out == "[0] hi\n[1] hi\n"
    assert shoal("job", "wait", job).code == 0


def test_the_blanks_of_a_job_file_are_filled(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("job.yaml").write_text(
        "Type: batch\nName: a\nTasks:\n  - Name: main\n    Engine:\n"
        "      Type: process\n      Params:\n        Command: [echo, '{{.said}}']\n"
    )
    done = shoal("job", "run", "job.yaml", "-V", "said=a=b, c", "--follow", "-q")
    assert (done.code, done.out) == (0, "a=b, c\n")
    assert submitted(agent)["Tasks"][0]["Engine"]["Params"]["Command"] == ["echo", "a=b, c"]
    assert "has no value; give it with -V said=" in shoal("job", "run", "job.yaml").err
    assert shoal("job", "run", "job.yaml", "--no-template", "--follow", "-q").out == "{{.said}}\n"
    text = Path("job.yaml").read_text()
    Path("job.yaml").write_text(text.replace("{{.said}}", "{{json .}}"))
    refused = shoal("job", "run", "job.yaml")
    assert refused.code == 2 and "line 8: '{{json .}}' is not a blank" in refused.err, refused
    assert shoal("job", "run", "job.yaml", "--no-template", "--follow", "-q").out == "{{json .}}\n"
    Path("job.yaml").write_text(text)
    for wrong in ("said", "=x"):
        done = shoal("job", "run", "job.yaml", "-V", wrong)
        assert done.code == 2 and f"-V {wrong}" in done.err, done
    assert len(agent.backend.submitted) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Type: batch\nTasks:\n  - Engin: {}\n",
            "line 3, Tasks[0].Engin: unknown key, did you mean 'Engine'?",
        ),
        ("Type: bach\nTasks: []\n", "line 1, Type: 'bach' is not a job type"),
        ("Type: batch\nTasks:\n  - Engine: {Type: fortran}\n", "allowed: process"),
        ("Type: batch\n", "Tasks: missing"),
        ("a: [", "line"),
        ("", "empty"),
    ],
)  # fmt: skip
def test_a_wrong_job_file_ends_with_2_its_line_and_path(
    agent: MemoryAgent, shoal: Shoal, text: str, message: str
) -> None:
    Path("job.yaml").write_text(text)
    for words in (("job", "run", "job.yaml"), ("job", "validate", "job.yaml")):
        ended = shoal(*words)
        assert ended.code == 2 and message in ended.err, ended
    assert agent.backend.submitted == []
    assert shoal("job", "run", "absent.yaml").code == 2


def test_a_job_that_never_ends_is_not_waited_for(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("daemon.yaml").write_text(example("daemon"))
    ended = shoal("job", "run", "--wait", "daemon.yaml")
    assert ended.code == 2 and "--follow" in ended.err


def test_waiting_has_an_end_when_asked(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    ended = shoal("job", "wait", "--timeout", "0", job)  # by number of seconds
    assert (ended.code, "the job goes on" in ended.err) == (exitcodes.TIMED_OUT, True)
    agent.call(agent.backend.finish, job, 6)
    assert shoal("job", "wait", "--timeout", "0", job).code == 6
    assert shoal("job", "wait", "--json", job).lines[-1]["final"]["state"] == "failed"
    assert shoal("job", "wait", "--timeout", "soon", job).code == 2


def test_an_agent_that_goes_away_leaves_the_job_and_says_so(agent: MemoryAgent) -> None:
    with started(
        [sys.executable, "-m", "agent.cli.entry", "run", "--", "wait"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        until(running.stderr, "running on")
        agent.stop()
        err = running.stderr.read()
    assert running.returncode == exitcodes.NO_AGENT
    assert "the job goes on: `shoal logs -f" in err


def test_ctrl_c_without_a_terminal_leaves_it_running_and_says_the_id(agent: MemoryAgent) -> None:
    with started(
        [sys.executable, "-m", "agent.cli.entry", "run", "--", "wait"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        until(running.stderr, "running on")
        running.send_signal(signal.SIGINT)
        err = running.stderr.read()
    (view,) = agent.backend.views.values()
    assert running.returncode == exitcodes.LEFT
    assert f"`shoal stop {view['id'][:8]}` ends it" in err
    assert view["state"] == "running"


@pytest.mark.parametrize(
    ("keys", "code", "state"),
    [
        (b"s\n", exitcodes.NO_RESULT, "stopped"),
        (b"\n", exitcodes.LEFT, "running"),
        (b"l\n", exitcodes.LEFT, "running"),
        (b"\x03", exitcodes.LEFT, "running"),  # a second Ctrl-C
    ],
    ids=("stop", "default", "leave", "again"),
)
def test_ctrl_c_on_a_terminal_asks(agent: MemoryAgent, keys: bytes, code: int, state: str) -> None:
    with Terminal("run", "--", "wait") as terminal:
        terminal.until(b"running on")
        terminal.type(b"\x03")
        terminal.until(b"[s/L]")
        terminal.type(keys)
        assert terminal.wait() == code
    (view,) = agent.backend.views.values()
    assert view["state"] == state


@pytest.mark.parametrize("asking", [False, True], ids=("following", "asking"))
def test_ctrl_c_just_before_a_wait_is_heeded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, asking: bool
) -> None:
    ended = threading.Event()
    here, there = os.pipe()

    def silent() -> Iterator[dict[str, Any]]:
        ended.wait(60)
        yield {}

    reader = following._Reader(silent())
    # As a signal between the last look for one and the wait: noted, and no call is broken off.
    late = threading.Timer(0.1, _thread.interrupt_main)
    late.start()
    try:
        with os.fdopen(here) as quiet, pytest.raises(KeyboardInterrupt):
            monkeypatch.setattr(sys, "stdin", quiet)
            following._answer() if asking else reader.get(None)
        assert not ended.is_set()
    finally:
        ended.set()
        late.join()
        os.close(there)


def test_a_terminal_sees_one_line_that_changes(agent: MemoryAgent) -> None:
    with Terminal("run", "--", "echo", "hi") as terminal:
        assert terminal.wait() == 0
        shown = terminal.rest()
    assert b"\r\x1b[Kshoal: accepted, on 2 peers" in shown
    assert b"asking 3 peers \xc2\xb7 3 bids \xc2\xb7 awarded to pi-attic" in shown
    assert b"\r\x1b[Khi\r\n" in shown
    assert shown.endswith(b"shoal: done on pi-attic\r\n")


def test_nothing_that_a_peer_says_reaches_the_terminal_raw(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = shoal("run", "-d", "--", "wait").out.strip()
    view = agent.backend.views[job]
    agent.call(agent.backend.finish, job, None)
    nasty = "x\x1b[2J\nshoal: done\u202e"
    view["reason"] = nasty
    view["slots"][0].update(executor_name=nasty, reason=nasty)
    view["why"][0]["asked"][0].update(name=nasty, reason=nasty)
    for words in (("job", "wait", job), ("jobs",), ("why", job), ("job", "describe", job)):
        ended = shoal(*words)
        assert "\x1b" not in ended.out + ended.err and "\u202e" not in ended.out + ended.err
        assert "\nshoal: done" not in ended.out + ended.err


def test_lines_of_slots_are_kept_whole_and_bounded(capfd: pytest.CaptureFixture[str]) -> None:
    output = following.Output(slots=2)
    for slot, data in ((0, "a"), (1, "b\nc"), (0, "a\n"), (1, "")):
        output.write({"slot": slot, "stream": "stdout", "data": data})
    output.write({"slot": 0, "stream": "stdout", "data": "x" * 100_000})
    output.flush()
    lines = capfd.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == ["[1] b", "[0] aa", "[0] xxxxxx", "[1] c"]


def until(stream: Any, text: str) -> None:
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"never said {text!r}")


def test_a_job_is_run_again_as_a_job_of_its_own(agent: MemoryAgent, shoal: Shoal) -> None:
    job = shoal("run", "-d", "--name", "again", "--", "echo", "hi").out.strip()
    ended = shoal("job", "rerun", job)
    assert ended.code == 0
    assert ended.out.strip() != job
    assert submitted(agent)["Name"] == "again"
    followed = shoal("job", "rerun", job, "--follow", "-q")
    assert (followed.code, followed.out) == (0, "hi\n")


def test_what_stands_or_is_not_known_whole_is_not_run_again(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = shoal("run", "-d", "--name", "collect", "--", "echo", "hi").out.strip()
    agent.backend.views[job] |= {"spec": None}
    assert "holds the spec" in shoal("job", "rerun", job).err
    agent.backend.views[job] |= {"type": "daemon", "parts": []}
    ended = shoal("job", "rerun", job)
    assert ended.code == 2 and "stands until it is stopped" in ended.err


def test_a_jobs_history_is_in_order(agent: MemoryAgent, shoal: Shoal) -> None:
    assert shoal("run", "--", "echo", "hi").code == 0
    (found,) = shoal("jobs", "--json").json["jobs"]
    agent.backend.views[found["id"]]["executions"] = [
        {
            "id": "e" * 32, "slot": 0, "peer": "12D3KooWx", "peer_name": "pi-attic",
            "state": "completed", "attempt": 1, "term": 1, "exit_code": 0, "reason": "",
            "started_ms": found["created_ms"] + 1, "ended_ms": found["created_ms"] + 2,
        }
    ]  # fmt: skip
    told = shoal("job", "history", found["id"], "--json").json["history"]
    assert told[0]["text"].endswith("submitted by pi-kitchen")
    texts = [moment["text"] for moment in told]
    assert texts.index("3 bids") < texts.index("job completed")
    assert any(text.startswith("slot 0, attempt 1, on pi-attic: started") for text in texts)
    assert [moment["at_ms"] for moment in told] == sorted(moment["at_ms"] for moment in told)
    assert "3 bids" in shoal("job", "history", found["id"]).out

"""Containers as a person runs them: three agents, one docker, the command line."""

from __future__ import annotations

import json
import os
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.dockerhost import IMAGE, LOGIN, DockerHost
from tests.lab import Device, Done, Lab, LabError
from tests.leftovers import leftovers

SHELL = ("--network", "none", IMAGE, "sh", "-c")


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    lab = Lab(3)
    for device in lab.devices:
        device.environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
        device.environment["DOCKER_CONFIG"] = str(device.data_dir / "own-docker")
    lab[1].flags = ["--label", "place=d01"]
    lab[2].flags = ["--accept-networks", "none"]
    lab[2].flags += ["--accept-devices", "/dev/km*", "--accept-capabilities", "CHOWN"]
    with lab:
        lab.until(lambda: all("docker" in peer["engines"] for peer in peers(lab)), "docker is seen")
        yield lab


def peers(lab: Lab) -> list[dict[str, Any]]:
    with lab[0].client() as client:
        found = client.peers()
    assert len(found) == len(lab.devices)
    return found


def run(lab: Lab, *words: str) -> Done:
    return lab.shoal(lab[0], "docker", "run", "-q", *words)


def view(lab: Lab, job: str) -> dict[str, Any]:
    with lab[0].client() as client:
        return client.job(job)


def ended(lab: Lab, docker: DockerHost) -> None:
    try:
        lab.until(lambda: not leftovers(lab, docker), "nothing is left", 120)
    except LabError:
        assert leftovers(lab, docker) == []


# ---- what people type --------------------------------------------------------------------------


def test_a_container_runs_somewhere_and_its_output_and_exit_code_come_back(
    lab: Lab, docker: DockerHost
) -> None:
    done = run(lab, *SHELL, "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    ended(lab, docker)


def test_slots_know_their_number(lab: Lab, docker: DockerHost) -> None:
    done = run(lab, "--count", "3", "-e", "A=b", *SHELL, "echo $SHOAL_PARTITION_INDEX $A")
    assert sorted(re.findall(r"\d b", done.out)) == ["0 b", "1 b", "2 b"]
    ended(lab, docker)


def test_shipped_files_go_in_and_results_come_out(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    (tmp_path / "work.sh").write_text(
        "mkdir out; echo made of $1 > out/file; echo x > /outputs/y\n"
    )
    words = ("--name", "clay", "-f", "work.sh", "-o", "out", "-o", "/outputs", "--network", "none")
    done = lab.shoal(lab[1], "docker", "run", *words, IMAGE, "sh", "work.sh", "clay", cwd=tmp_path)
    assert done.code == 0, done
    got = lab.shoal(lab[2], "job", "get", "clay", "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert (tmp_path / "got/out/file").read_text() == "made of clay\n"
    assert (tmp_path / "got/outputs/y").read_text() == "x\n"
    ended(lab, docker)


def test_the_example_runs_as_it_is(lab: Lab, docker: DockerHost, tmp_path: Path) -> None:
    example = lab.shoal(lab[0], "job", "example", "docker")
    (tmp_path / "docker.yaml").write_text(example.out)
    done = lab.shoal(lab[0], "job", "run", "docker.yaml", "--follow", "-q", cwd=tmp_path)
    assert (done.code, done.out) == (0, "HELLO FROM A CONTAINER"), done
    ended(lab, docker)


def test_bacalhaus_job_files_run_as_they_are(lab: Lab, docker: DockerHost, tmp_path: Path) -> None:
    files = Path(__file__).parents[1] / "bacalhau"
    said = lab.shoal(lab[0], "job", "run", str(files / "hello.yaml"), "--follow", "-q")
    assert said.code == 0, said
    lines = sorted(said.out.splitlines())
    assert lines == [f"[{n}] hello from part {n} of 2 of a batch" for n in range(2)]
    left = lab.shoal(lab[1], "job", "run", str(files / "outputs.json"), "--wait", "-q")
    assert left.code == 0, left
    got = lab.shoal(lab[2], "job", "get", "Leave A File", "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert (tmp_path / "got/output_custom/words").read_text() == "TIDE\n"
    ended(lab, docker)


def test_flags_of_bacalhau_docker_run_do_what_they_do_there(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "words.txt").write_text("low tide\n")
    script = "tr a-z A-Z < /inputs/words.txt > /outputs/words; cat /outputs/words"
    with serving(served) as address:
        words = ("--name", "shaped", "--network", "None", "-i", f"{address}/words.txt")
        more = ("-o", "capitals:/outputs", "-p", "local", "--entrypoint", "/bin/sh,-c")
        done = run(lab, *words, *more, IMAGE, "--", script)
    assert (done.code, done.out) == (0, "LOW TIDE\n"), done
    got = lab.shoal(lab[1], "job", "get", "shaped", "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert (tmp_path / "got/capitals/words").read_text() == "LOW TIDE\n"
    printed = lab.shoal(lab[0], "docker", "run", "--dry-run", *more, *words[:4], IMAGE, "echo hi")
    (tmp_path / "job.yaml").write_text(printed.out)
    ran = lab.shoal(lab[2], "job", "run", str(tmp_path / "job.yaml"), "--follow", "-q")
    assert (ran.code, ran.out) == (0, "hi\n"), ran
    everywhere = lab.shoal(
        lab[0], "docker", "run", "-q", "--target", "all", "--network", "none", IMAGE, "echo", "x"
    )
    assert (everywhere.code, sorted(everywhere.out.splitlines())) == (
        0,
        [f"{device.name}: x" for device in lab.devices],
    ), everywhere
    ended(lab, docker)


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """A server of the web with these files; its address."""
    handler = partial(QuietFiles, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_output_is_read_from_any_device_while_it_runs_and_after(
    lab: Lab, docker: DockerHost
) -> None:
    script = "for i in 1 2 3; do echo line $i; sleep 0.3; done"
    started = lab.shoal(lab[0], "docker", "run", "-d", *SHELL, script)
    job = started.out.strip()
    followed = lab.shoal(lab[1], "logs", "-f", job)
    assert re.findall(r"line \d", followed.out) == ["line 1", "line 2", "line 3"], followed
    ended(lab, docker)
    after = lab.shoal(lab[2], "logs", "--tail", "2", job)
    assert re.findall(r"line \d", after.out) == ["line 2", "line 3"], after


def test_a_flood_of_output_says_what_of_it_is_gone(lab: Lab, docker: DockerHost) -> None:
    """Docker keeps 8 MiB of both streams and drops the oldest, 2 MiB at once."""
    script = "yes $(printf %01000d 0) | head -n 12000; echo the end"
    started = lab.shoal(lab[0], "docker", "run", "-d", *SHELL, script)
    job = started.out.strip()
    assert lab.shoal(lab[0], "job", "wait", job).code == 0
    said = lab.shoal(lab[1], "job", "describe", job).out
    (kept,) = re.findall(r"what came before its last ([0-9,]+) bytes, of both streams", said)
    assert "may be gone, as task.log_bytes_max has it" in said
    ended(lab, docker)
    after = lab.shoal(lab[2], "logs", job)
    assert len(after.out) == int(kept.replace(",", "")) > 7_500_000, after.err
    assert after.out.endswith("0\nthe end\n") and "what came before its last" in after.err


def test_bad_ends_have_their_reasons(lab: Lab, docker: DockerHost) -> None:
    greedy = lab.shoal(
        lab[0], "docker", "run", "--memory", "16Mi", *SHELL, "x=aaaa; while true; do x=$x$x; done"
    )
    assert greedy.code == 137
    assert "out of memory: it may have 16 MiB, see Resources.Memory" in greedy.err
    unknown = lab.shoal(lab[0], "docker", "run", "--retry", "1", "--network", "none", IMAGE, "nope")
    assert unknown.code == 125 and '"nope": executable file not found' in unknown.err, unknown
    late = lab.shoal(lab[0], "docker", "run", "--timeout", "1", *SHELL, "sleep 60")
    assert late.code == 124 and "ExecutionTimeout" in late.err, late
    absent = lab.shoal(
        lab[0], "docker", "run", "--retry", "1", "--pull", "never", "absent:1", "true"
    )
    assert absent.code == 125 and "image absent:1 is not here" in absent.err, absent
    ended(lab, docker)


# A million, as of a process in test_tasks.py, takes the file systems of a container minutes.
FILL = "cd /outputs; for d in $(seq 100); do mkdir $d; (cd $d; seq 1000 | xargs touch); done"
BOMBS = {
    "a-hundred-thousand-files": FILL,
    "a-sparse-file": "truncate -s 10G /outputs/hole",
    "too-much-together": "cd /outputs; for i in 1 2 3; do truncate -s 400M $i; done",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_result_bomb_is_refused_with_its_reason_and_leaves_nothing(
    lab: Lab, docker: DockerHost, name: str
) -> None:
    words = ("-d", "--name", name, "--cpu", "1", "-o", "/outputs", *SHELL, BOMBS[name])
    assert lab.shoal(lab[0], "docker", "run", *words).code == 0
    lab.until(lambda: view(lab, name)["state"] not in ("pending", "running"), "it ended", 300)
    (slot,) = view(lab, name)["slots"]
    assert (slot["state"], slot["exit_code"], slot["archive"]) == ("completed", 0, ""), slot
    described = lab.shoal(lab[1], "job", "describe", name).out
    assert "Files left out of 0: the result files could not be kept: too many files, or too " in (
        described
    )
    assert "the result files could not be kept" in lab.shoal(lab[2], "job", "get", name).err
    ended(lab, docker)


def test_links_in_a_result_come_out_as_nothing_and_are_told_of(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    script = "cd /outputs; ln -s /etc/shadow l; ln -s ../../etc up; mkfifo p; echo x > file"
    done = run(lab, "--name", "links", "-o", "/outputs", *SHELL, script)
    assert done.code == 0, done
    described = lab.shoal(lab[0], "job", "describe", "links").out
    assert "Files left out of 0: " in described
    for left_out in ("outputs/l", "outputs/up", "outputs/p"):
        assert f"{left_out}: neither a file nor a directory" in described, described
    assert lab.shoal(lab[2], "job", "get", "links", "-o", str(tmp_path / "got")).code == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "got", "outputs"]
    ended(lab, docker)


def test_a_wrong_image_is_refused_before_anything_runs(lab: Lab) -> None:
    done = run(lab, "Not/An:Image!", "true")
    assert done.code == 2
    assert "the image: 'Not/An:Image!' is not an image's name" in done.err


def test_what_an_owner_does_not_allow_is_refused_in_the_bid(lab: Lab, docker: DockerHost) -> None:
    words = ("-d", "--constraint", f"hostname={hostname(lab)}", "--queue-timeout", "1")
    started = lab.shoal(lab[0], "docker", "run", *words, "--network", "host", IMAGE, "true")
    told = lab.until(lambda: _refused(lab, started.out.strip(), "network host"), "why says it")
    why = told.partition("round 2")[0]
    assert why.count('([accept] networks = ["none", "bridge"])') == 2, why
    assert '([accept] networks = ["none"])' in why
    ended(lab, docker)


# What no container has unless it is given it, by what its job asks for: in which words a job asks
# for it, and what prints "given" with it alone. To open a log for writing writes nothing.
ASKED = {
    "device /dev/kmsg": (
        ("--device", "/dev/kmsg"),
        "test -c /dev/kmsg && : > /dev/kmsg && echo given",
        ("devices", '"/dev/km*"'),
    ),
    "capability CHOWN": (
        ("--cap-add", "CHOWN"),
        "touch /tmp/own && chown nobody /tmp/own && echo given",
        ("capabilities", '"CHOWN"'),
    ),
}


@pytest.mark.parametrize("ask", ASKED)
def test_what_an_owner_allows_is_given_there_and_nowhere_else(
    lab: Lab, docker: DockerHost, ask: str
) -> None:
    words, script, (key, _) = ASKED[ask]
    name = f"asks-for-{key}"
    done = run(lab, "--name", name, "--count", "2", *words, *SHELL, script)
    assert (done.code, sorted(done.out.split("\n"))) == (0, ["", "[0] given", "[1] given"]), done
    places = [slot["executor"] for slot in view(lab, name)["slots"]]
    assert places == [lab[2].peer] * 2, "the one device whose owner allows it"
    refusals = lab.shoal(lab[1], "why", name).out.partition("round 2")[0]
    told = re.findall(r"^ +(d\d+) +refused: (.*)$", refusals, re.MULTILINE)
    reason = f"policy: {ask} is not allowed here ([accept] {key} = [])"
    assert sorted(told) == [("d00", reason), ("d01", reason)], refusals
    where = f"shoal/peer={lab[2].peer}"
    without = run(lab, "--constraint", where, *SHELL, script)
    assert (without.code, without.out) == (1, ""), "what was not asked for is not given there"
    ended(lab, docker)


@pytest.mark.parametrize("words", [("--device", "/dev/fuse"), ("--cap-add", "NET_ADMIN")])
def test_what_no_owner_allows_is_refused_by_the_one_who_allows_others(
    lab: Lab, docker: DockerHost, words: tuple[str, str]
) -> None:
    kind = {"--device": "device", "--cap-add": "capability"}[words[0]]
    key, allowed = next(each for ask, (*_, each) in ASKED.items() if ask.startswith(kind))
    started = run(lab, "-d", "--queue-timeout", "1", *words, *SHELL, "true")
    why = lab.until(lambda: _refused(lab, started.out.strip(), f"{kind} {words[1]}"), "why says it")
    first = why.partition("round 2")[0]
    assert f"policy: {kind} {words[1]} is not allowed here ([accept] {key} = [{allowed}])" in first
    ended(lab, docker)


def _refused(lab: Lab, job: str, what: str) -> str:
    out = lab.shoal(lab[0], "why", job).out
    return out if out.count(what) >= 3 else ""


def hostname(lab: Lab) -> str:
    return str(peers(lab)[0]["labels"]["hostname"])


# ---- standing work -----------------------------------------------------------------------------


def daemon(name: str, script: str) -> str:
    return json.dumps(
        {
            "Name": name,
            "Type": "daemon",
            "Tasks": [
                {
                    "Engine": {
                        "Type": "docker",
                        "Params": {"Image": IMAGE, "Parameters": ["sh", "-c", script]},
                    },
                    "Network": {"Type": "none"},
                }
            ],
        }
    )


def test_what_ends_while_its_agent_is_away_is_no_lost_work(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    script = "sleep 3; echo told; echo made > /outputs/file"
    words = ("-d", "--name", "away", "-o", "/outputs", "--constraint", f"shoal/peer={lab[2].peer}")
    job = lab.shoal(lab[0], "docker", "run", *words, *SHELL, script).out.strip()
    with lab[0].client() as client:
        lab.until(lambda: client.job(job)["slots"][0]["state"] == "running", "it runs")
        name = client.job(job)["slots"][0]["execution"]
        lab.until(lambda: _runs(docker, name) == [True], "its container runs")
        lab.kill(lab[2])
        lab.until(lambda: _runs(docker, name) == [False], "its container ends")
        lab.start(lab[2])
        lab.until(lambda: client.job(job)["state"] == "completed", "its end is told", 60)
        (slot,) = client.job(job)["slots"]
    assert (slot["execution"], slot["stdout_tail"]) == (name, "told\n"), slot
    got = lab.shoal(lab[1], "job", "get", job, "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert (tmp_path / "got/outputs/file").read_text() == "made\n"
    ended(lab, docker)


def _runs(docker: DockerHost, execution: str) -> list[bool]:
    """Of each container of that execution, whether it runs."""
    ours = (each for each in docker.ours() if each["Labels"]["shoal.execution"] == execution)
    return [each["State"] == "running" for each in ours]


def test_a_daemons_container_outlives_its_agent_and_goes_when_it_is_stopped(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    (tmp_path / "d.json").write_text(daemon("beat", "while true; do echo beat; sleep 0.5; done"))
    assert lab.shoal(lab[0], "job", "run", "d.json", cwd=tmp_path).code == 0
    lab.until(lambda: len(running(docker)) == 3, "one on each device")
    before = running(docker)
    lab.kill(lab[1])
    lab.start(lab[1])
    lab.until(lambda: states(lab, "beat") == ["running"] * 3, "it is found again")
    assert running(docker) == before, "the very same containers"
    assert lab.shoal(lab[1], "logs", "beat", "--tail", "1").out.count("beat") >= 1
    assert lab.shoal(lab[2], "job", "stop", "beat", "-y").code == 0
    ended(lab, docker)


def running(docker: DockerHost) -> set[str]:
    return {each["Id"] for each in docker.ours() if each["State"] == "running"}


def states(lab: Lab, job: str) -> list[str]:
    return [part["state"] for part in view(lab, job)["parts"]]


def test_a_check_runs_in_the_container(lab: Lab, docker: DockerHost, tmp_path: Path) -> None:
    spec = json.loads(daemon("checked", "sleep 2; touch /within; sleep 1000"))
    spec |= {"Type": "service", "Check": {"Exec": ["test", "-e", "/within"], "Every": "1s"}}
    (tmp_path / "s.json").write_text(json.dumps(spec))
    assert lab.shoal(lab[0], "job", "run", "s.json", cwd=tmp_path).code == 0

    def well() -> bool:
        """The device that runs it knows."""
        told = [lab.shoal(device, "events", "--job", "checked").out for device in lab.devices]
        return any("checked is well" in out for out in told)

    lab.until(well, "it is well")
    assert lab.shoal(lab[0], "job", "stop", "checked", "-y").code == 0
    ended(lab, docker)


def test_a_published_port_is_shown_and_answers(lab: Lab, docker: DockerHost) -> None:
    serve = "echo served > index.html; exec httpd -f -p 80"
    words = ("-d", "--name", "page", "-p", "8080:80", "-w", "/")
    started = lab.shoal(lab[0], "docker", "run", *words, IMAGE, "sh", "-c", serve)
    assert started.code == 0, started
    where = lab.until(lambda: _at(lab, "page", "8080"), "it is told where")
    assert re.search(r"d0[01] +port-8080 127\.0\.0\.1:8080", where), where
    page = lab.until(lambda: docker.fetch("http://127.0.0.1:8080/"), "it answers")
    assert page == "served\n"
    assert lab.shoal(lab[0], "stop", "page", "-y").code == 0
    ended(lab, docker)
    assert "runs nowhere just now" in lab.shoal(lab[0], "job", "where", "page").err


def test_a_port_that_the_device_chooses_is_shown_and_answers(lab: Lab, docker: DockerHost) -> None:
    serve = "echo chosen > index.html; exec httpd -f -p 80"
    words = ("-d", "--name", "any", "-p", ":80", "-w", "/")
    started = lab.shoal(lab[0], "docker", "run", *words, IMAGE, "sh", "-c", serve)
    assert started.code == 0, started
    where = lab.until(lambda: _at(lab, "any", "127.0.0.1:2") or _at(lab, "any", "127.0.0.1:3"), "")
    (port,) = re.findall(r"port-80 127\.0\.0\.1:(\d+)", where)
    page = lab.until(lambda: docker.fetch(f"http://127.0.0.1:{port}/"), "it answers")
    assert page == "chosen\n"
    on = json.loads(lab.shoal(lab[2], "job", "where", "any", "--json").out)
    assert [place["ports"] for place in on] == [{"port-80": int(port)}]
    assert lab.shoal(lab[0], "stop", "any", "-y").code == 0
    ended(lab, docker)


def _at(lab: Lab, job: str, port: str) -> str:
    out = lab.shoal(lab[1], "job", "where", job).out
    return out if port in out else ""


def test_who_waits_is_told_that_an_image_is_pulled(lab: Lab, docker: DockerHost) -> None:
    with docker.registry("far/large:1", files={"large": os.urandom(30_000_000)}) as image:
        words = ("--name", "large", "--network", "none", image, "echo", "pulled")
        done = lab.shoal(lab[0], "docker", "run", *words)
        assert (done.code, done.out) == (0, "pulled\n"), done
        assert re.search(rf"shoal: on d0\d: pulling {image}", done.err), done.err
        kinds = [json.loads(line)["kind"] for line in _told(lab, "large")]
        assert "job.accepted" in kinds and "execution.progress" not in kinds, "it is kept nowhere"
    ended(lab, docker)


def _told(lab: Lab, job: str) -> list[str]:
    return lab.shoal(lab[0], "events", "--json", "--job", job).out.splitlines()


def test_a_private_registry_serves_the_device_that_has_its_password_and_nobody_learns_it(
    lab: Lab, docker: DockerHost
) -> None:
    words = ("--constraint", "place=d01", "--network", "none")
    with docker.registry("far/private:1", private=True) as image:
        locked = ("docker", "run", *words, "--name", "locked", image, "echo", "in")
        done = lab.shoal(lab[0], *locked)
        assert done.code != 0 and "no basic auth credentials" in done.err, done
        login = b64encode(":".join(LOGIN).encode()).decode()
        place = lab[1].data_dir / "own-docker"
        place.mkdir()
        (place / "config.json").write_text(
            json.dumps({"auths": {image.partition("/")[0]: {"auth": login}}})
        )
        done = run(lab, *words, "--name", "opened", image, "echo", "in")
        assert (done.code, done.out) == (0, "in\n"), done
        told = [lab.shoal(lab[0], "job", "describe", "opened", "--json").out]
        told += [lab.shoal(device, "events", "--json").out for device in lab.devices]
        assert not any(secret in text for text in told for secret in (LOGIN[1], login))
    (place / "config.json").unlink()
    ended(lab, docker)
    for device in lab.devices:
        for file in device.data_dir.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                assert LOGIN[1].encode() not in data and login.encode() not in data, file


# ---- what a slot keeps -------------------------------------------------------------------------


def test_a_slot_waits_for_the_device_that_has_its_volume(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    spec = json.loads(daemon("ledger", "echo line >> /data/log; cat /data/log; sleep 1000"))
    spec["Type"] = "service"
    spec["Constraints"] = [{"Key": "arch", "Operator": "exists"}]
    spec["Tasks"][0]["Volumes"] = [{"name": "state", "target": "/data"}]
    (tmp_path / "l.json").write_text(json.dumps(spec))
    assert lab.shoal(lab[0], "job", "run", "l.json", cwd=tmp_path).code == 0
    home = lab.until(lambda: _home(lab, "ledger"), "it runs")
    (container,) = running(docker)
    others = [device for device in lab.devices if device is not home]
    lab.kill(home)
    docker.api.remove_container(container, force=True)

    def waits() -> bool:
        told = [lab.shoal(device, "why", "ledger").out for device in others]
        return any(
            f"{home.name} " in out and "it has volume state, and is away" in out for out in told
        )

    lab.until(waits, "it waits for its device")
    assert running(docker) == set()
    lab.start(home)
    lab.until(lambda: _home(lab, "ledger") is home, "it is back")
    lab.until(
        lambda: "line\nline\n" in lab.shoal(home, "logs", "ledger", "--tail", "2").out,
        "what it wrote before is there",
    )
    assert len(_volumes(docker)) == 1
    assert lab.shoal(others[0], "job", "stop", "ledger", "-y").code == 0
    ended(lab, docker)
    assert len(_volumes(docker)) == 1, "a stop keeps it"
    assert lab.shoal(others[0], "job", "delete", "ledger", "-y").code == 0
    lab.until(lambda: not _volumes(docker), "nobody wants it any more")


def _home(lab: Lab, job: str) -> Device | None:
    """Where its one slot runs, as any device that is up sees it."""
    asked = next(device for device in lab.devices if device.process is not None)
    with asked.client() as client:
        slots = client.job(job)["slots"]
    names = [slot["executor_name"] for slot in slots if slot["state"] == "running"]
    return next((device for device in lab.devices if device.name in names), None)


def _volumes(docker: DockerHost) -> list[str]:
    found = docker.api.volumes(filters={"label": "shoal.job"})["Volumes"] or []
    return [volume["Name"] for volume in found]

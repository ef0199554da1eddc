"""Buckets as a person uses them: real agents, the command line, and a server that checks keys."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, children_of, process_job
from tests.s3server import S3Server

AVERAGE = "mkdir out; cat in/* | awk '{s += $1} END {print s / NR}' > out/average; cat out/average"
OUT = [{"Name": "report", "Path": "out"}]
WAIT = ("--wait", "-q")


@pytest.fixture(scope="module")
def lab(s3: S3Server, s3_any_key: S3Server) -> Iterator[Lab]:
    """The first may do nothing with buckets; the second has good keys, the third others."""
    lab = Lab(3)
    hosts = dict.fromkeys((s3.host, s3_any_key.host))
    places = [place for host in hosts for place in (f"{host}/readings", f"{host}/results:rw")]
    places.append("127.0.0.1:1/*:rw")
    buckets = [word for place in places for word in ("--accept-buckets", place)]
    for device in lab.devices[1:]:
        device.flags = [*buckets, "--s3-credentials", str(device.data_dir / "credentials")]
    s3.credentials(lab[1].data_dir / "credentials", beside=s3_any_key)
    s3.credentials(lab[2].data_dir / "credentials", "of-somebody-else")
    with lab:
        yield lab


def averages(
    s3: S3Server, name: str, on: str, key: str = "attic/*", into: str = "", **more: Any
) -> dict[str, Any]:
    """A job over the objects at `key`; what it leaves goes to `into`, where that is given."""
    params = {"Bucket": "readings", "Key": key, "Endpoint": s3.endpoint, **more}
    place = {"Bucket": "results", "Key": into, "Endpoint": more.get("Endpoint", s3.endpoint)}
    task = {
        "InputSources": [{"Target": "in", "Source": {"Type": "s3", "Params": params}}],
        "ResultPaths": OUT,
        **({"Publisher": {"Type": "s3", "Params": place}} if into else {}),
    }
    where = [{"Key": "shoal/peer", "Operator": "=", "Values": [on]}] if on else []
    return process_job("sh", "-c", AVERAGE, name=name, Constraints=where, Task=task)


def run(lab: Lab, job: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Run it from the first device to its end; its only slot as that tells of it."""
    file = tmp_path / f"{job['Name']}.json"
    file.write_text(json.dumps(job))
    lab.shoal(lab[0], "job", "run", str(file), *WAIT)
    found = json.loads(lab.shoal(lab[0], "job", "describe", job["Name"], "--json").out)
    (slot,) = found["slots"]
    return dict(slot)


def left_behind(lab: Lab) -> list[str]:
    """Partial files and work directories of what has ended, and processes of the agents."""
    found = []
    for device in lab.devices:
        found += [str(path) for path in (device.data_dir / "downloads").glob("*.part")]
        found += [str(path) for path in (device.data_dir / "executions").glob("*/work")]
        found += [str(pid) for pid in children_of(device.pid)]
    return found


def test_data_of_one_bucket_goes_in_and_results_into_another(
    lab: Lab, s3: S3Server, tmp_path: Path
) -> None:
    for number, value in enumerate((1, 2, 6)):
        s3.put("readings", f"attic/{number}.csv", f"{value}\n".encode())
    done = run(lab, averages(s3, "average", "", into="{jobID}/{executionID}"), tmp_path)
    assert (done["state"], done["stdout_tail"]) == ("completed", "3\n"), done
    assert done["executor"] == lab[1].peer, "nobody else may, or can"
    place = done["published"].removeprefix("s3://results/")
    assert place.endswith(f"{done['execution']}.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(s3.get("results", place))) as archive:
        assert archive.extractfile("report/average").read() == b"3\n"  # type: ignore[union-attr]
    described = lab.shoal(lab[2], "job", "describe", "average").out
    assert f"Published of 0: {done['published']}" in described
    got = lab.shoal(lab[0], "job", "get", "average", "-o", str(tmp_path / "got"))
    assert got.code == 0 and done["published"] in got.err
    assert (tmp_path / "got/report/average").read_text() == "3\n"
    lab.until(lambda: not left_behind(lab), "nothing is left behind")


def test_buckets_are_named_on_the_command_line(lab: Lab, s3: S3Server) -> None:
    s3.put("readings", "typed/0.csv", b"5\n")
    at = f"opt=endpoint={s3.endpoint}"
    words = ("--name", "typed", "-s", f"shoal/peer={lab[1].peer}", "-o", "report:out", "-q")
    source, target = f"s3://readings/typed/*,dst=in,{at}", f"s3://results/typed/{{jobID}},{at}"
    command = ("sh", "-c", AVERAGE)
    done = lab.shoal(lab[0], "run", *words, "-i", source, "-p", target, "--", *command)
    assert (done.code, done.out) == (0, "5\n"), done
    with lab[0].client() as client:
        (slot,) = client.job("typed")["slots"]
    assert slot["published"].startswith("s3://results/typed/")
    packed = s3.get("results", slot["published"].removeprefix("s3://results/"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.extractfile("report/average").read() == b"5\n"  # type: ignore[union-attr]


def test_the_example_runs_where_its_buckets_are(lab: Lab, s3: S3Server, tmp_path: Path) -> None:
    s3.put("readings", "attic/example.csv", b"4\n")
    text = lab.shoal(lab[0], "job", "example", "s3").out
    text = text.replace("http://minio.lan:9000", s3.endpoint).replace("Name: average", "Name: s3")
    (tmp_path / "s3.yaml").write_text(text)
    done = lab.shoal(lab[0], "job", "run", str(tmp_path / "s3.yaml"), *WAIT)
    assert done.code == 0, "where the keys are no good it fails, and is tried elsewhere"
    assert "s3://results/averages/" in lab.shoal(lab[1], "job", "describe", "s3").out


def test_a_device_that_may_not_says_so_with_its_line(
    lab: Lab, s3: S3Server, tmp_path: Path
) -> None:
    job = averages(s3, "not-allowed", lab[0].peer, into="a")
    job["Tasks"][0]["Timeouts"] = {"QueueTimeout": 0}
    done = run(lab, job, tmp_path)
    assert done["state"] == "failed"
    why = lab.shoal(lab[0], "why", "not-allowed").out
    assert (
        f"policy: bucket {s3.endpoint}/readings is not allowed here ([accept] buckets = [])" in why
    )


@pytest.mark.parametrize(
    ("name", "on", "more", "reason"),
    [
        ("missing", 1, {"key": "attic/none.csv"}, "attic/none.csv: the server says"),
        ("checksum", 1, {"key": "attic/0.csv", "ChecksumSHA256": "0" * 64}, "and not the job's"),
        ("keys", 2, {"key": "attic/0.csv"}, ": the server says AccessDenied"),
        ("down", 1, {"Endpoint": "http://127.0.0.1:1"}, ": [Errno 111] Connection"),
    ],
)
def test_what_cannot_be_had_is_the_end_with_its_reason(
    lab: Lab,
    s3: S3Server,
    tmp_path: Path,
    name: str,
    on: int,
    more: dict[str, Any],
    reason: str,
) -> None:
    s3.put("readings", "attic/0.csv", b"1\n")
    job = averages(s3, name, lab[on].peer, **more)
    fails(lab, job, reason, tmp_path)


def test_no_key_leads_out_of_a_task_s_directory(
    lab: Lab, s3_any_key: S3Server, tmp_path: Path
) -> None:
    s3_any_key.put("readings", "odd/../../planted", b"x")
    job = averages(s3_any_key, "parent", lab[1].peer, key="odd/*")
    fails(lab, job, "has the key '../../planted', which is no path here", tmp_path)
    assert not list(lab.directory.rglob("planted"))


def fails(lab: Lab, job: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """At its only try, with that reason; nothing stays, and nobody is told of a secret."""
    job["Retry"] = {"Attempts": 1}
    done = run(lab, job, tmp_path)
    assert done["state"] == "failed" and reason in done["reason"], done
    described = lab.shoal(lab[0], "job", "describe", job["Name"]).out
    assert reason[:40] in described and "of-somebody-else" not in described
    lab.until(lambda: not left_behind(lab), "nothing is left behind")


def test_what_cannot_be_published_has_failed_and_is_still_here(
    lab: Lab, s3: S3Server, s3_any_key: S3Server, tmp_path: Path
) -> None:
    s3.put("readings", "attic/0.csv", b"1\n")
    job = averages(s3, "unpublished", lab[1].peer, key="attic/0.csv", into="a")
    job["Tasks"][0]["Publisher"]["Params"]["Endpoint"] = "http://127.0.0.1:1"
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    assert lab.shoal(lab[0], "job", "run", str(file), "-q").code == 0

    def slot() -> dict[str, Any]:
        with lab[0].client() as client:
            found: dict[str, Any] = client.job("unpublished")["slots"][0]
        return found

    lab.until(lambda: slot()["state"] == "publishing", "it is being published")
    with lab[1].client() as client:
        assert client.status()["running"] == 1
    lab.kill(lab[1])
    lab.start(lab[1])
    lab.until(lambda: slot()["state"] == "publishing", "and so it is after a restart")
    assert lab.shoal(lab[0], "job", "stop", "unpublished").code == 0
    lab.until(lambda: slot()["state"] == "stopped", "it is stopped")
    lab.until(lambda: not left_behind(lab), "nothing is left behind")

    job = averages(s3, "refused", lab[1].peer, key="attic/0.csv", into="a")
    job["Tasks"][0]["Publisher"]["Params"]["Bucket"] = "readings"
    assert "is not allowed here" in str(run_refused(lab, job, tmp_path))
    shutil.copy(lab[2].data_dir / "credentials", lab[1].data_dir / "credentials")
    try:
        job = averages(s3, "wrong-keys", lab[1].peer, into="a")
        del job["Tasks"][0]["InputSources"]
        job["Tasks"][0]["Engine"]["Params"]["Command"] = ["sh", "-c", "mkdir out; echo 5 > out/a"]
        job["Retry"] = {"Attempts": 1}
        done = run(lab, job, tmp_path)
    finally:
        s3.credentials(lab[1].data_dir / "credentials", beside=s3_any_key)
    assert (done["state"], done["exit_code"]) == ("failed", None)
    assert "its results could not be published: s3://results/a.tar.gz" in done["reason"]
    got = lab.shoal(lab[0], "job", "get", "wrong-keys", "-o", str(tmp_path / "got"))
    assert got.code == 0 and (tmp_path / "got/report/a").read_text() == "5\n"


def run_refused(lab: Lab, job: dict[str, Any], tmp_path: Path) -> str:
    """What `why` says of a job that nobody takes."""
    job["Tasks"][0]["Timeouts"] = {"QueueTimeout": 0}
    run(lab, job, tmp_path)
    return lab.shoal(lab[0], "why", job["Name"]).out

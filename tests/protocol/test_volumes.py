"""volumes: what a slot keeps; how it is written, and whose it is."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.ids import JobId
from protocol.job import JobSpec
from protocol.tree import Plain
from protocol.volumes import Volume, lost_on, volume_id

PROCESS: Plain = {"Type": "process", "Params": {"Command": ["true"]}}
DOCKER: Plain = {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}
WASM: Plain = {"Type": "wasm", "Params": {"EntryModule": "/in/x"}}
DATA: dict[str, Plain] = {"Name": "data", "Target": "/data"}


def read(volumes: Plain, engine: Plain = PROCESS, kind: str = "service", **more: Plain) -> JobSpec:
    source: Plain = {"Source": {"Type": "inline", "Params": {"URL": "data:,"}}, "Target": "/in/x"}
    task: Plain = {"Engine": engine, "InputSources": [source], "Volumes": volumes}
    return JobSpec.from_plain({"Name": "job", "Type": kind, "Tasks": [task], **more})


def test_a_volume_has_a_name_and_a_place_in_any_letter_case() -> None:
    written: Plain = [{"NAME": "data", "target": "/data/", "readonly": True, "without": ["b", "a"]}]
    spec = read(written, DOCKER)
    assert spec.task.volumes == (Volume("data", "/data", True, ("a", "b")),)
    assert JobSpec.decode(spec.encode()) == spec


def test_a_task_without_any_is_written_as_before_there_were_volumes() -> None:
    assert "Volumes" not in read([]).task.to_plain()


@pytest.mark.parametrize(
    ("volumes", "engine", "path", "message"),
    [
        ([{"Target": "/d"}], DOCKER, "[0].Name", "missing"),
        ([{"Name": "d"}], DOCKER, "[0].Target", "missing"),
        ([{**DATA, "Target": "/a/../b"}], DOCKER, "[0].Target", "is not a path here"),
        ([{**DATA, "Target": "data"}], DOCKER, "[0]", "no place in a container; write /data"),
        ([{**DATA, "Source": "/srv"}], DOCKER, "[0].Source", "an input source, localDirectory"),
        ([{**DATA, "ReadOnly": True}], PROCESS, "[0]", "leave ReadOnly out"),
        ([DATA], WASM, "[0]", "a WebAssembly module keeps nothing"),
        ([DATA, {**DATA, "Target": "/e"}], DOCKER, "[1]", "the name 'data' is taken"),
        ([DATA, {"Name": "e", "Target": "/data/e"}], DOCKER, "[1]", "lie within one another"),
        ([{**DATA, "Target": "/in"}], DOCKER, "[0]", "'/in' and '/in/x' lie within one another"),
        ([{**DATA, "Target": "in/x/y"}], PROCESS, "[0]", "lie within one another"),
        ([{**DATA, "Name": str(n), "Target": f"/{n}"} for n in range(9)], DOCKER, "", "at most 8"),
    ],
)
def test_mistakes_name_their_place(volumes: Plain, engine: Plain, path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read(volumes, engine)
    assert caught.value.path == f"Tasks[0].Volumes{path}"
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("ops", {}, "comes back to none"),
        ("batch", {"Schedule": {"Cron": "0 2 * * *"}}, "each run is a job of its own"),
        ("batch", {"Parameters": []}, "each run is a job of its own"),
    ],
)
def test_what_never_comes_back_keeps_nothing(
    kind: str, more: dict[str, Plain], message: str
) -> None:
    with pytest.raises(JobSpecError, match=message):
        read([DATA], kind=kind, **more)


@pytest.mark.parametrize("kind", ["batch", "service", "daemon"])
def test_what_comes_back_may_keep_something(kind: str) -> None:
    assert read([DATA], kind=kind).task.volumes == (Volume("data", "/data"),)


def test_each_slot_of_each_job_has_its_own() -> None:
    ids = [
        volume_id(JobId(job), slot, name)
        for job in ("j", "k")
        for slot in (0, 1)
        for name in ("a", "b")
    ]
    assert len(set(ids)) == 8
    assert ids[0] == volume_id(JobId("j"), 0, "a") == "9fd51702919c6612d8e52a303c28f63a"


def test_a_device_that_is_given_up_is_so_by_name_or_id() -> None:
    volumes = (Volume("data", "/data", without=("attic", "12D3a")), Volume("other", "/other"))
    assert lost_on(volumes, "12D3b", "attic") and lost_on(volumes, "12D3a", "cellar")
    assert not lost_on(volumes, "12D3b", "cellar")

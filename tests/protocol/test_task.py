"""Tasks: defaults for a small device, Bacalhau's fields, and what this version refuses."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.network import NetworkSpec
from protocol.resources import RESOURCES_DEFAULT
from protocol.task import PublisherSpec, TaskSpec, TimeoutsSpec
from protocol.tree import Node, Plain

ENGINE: Plain = {"Type": "process", "Params": {"Command": ["true"]}}


def read(standing: bool = False, **fields: Plain) -> TaskSpec:
    return TaskSpec.read(Node({"Engine": ENGINE, **fields}, "T"), ("process",), standing=standing)


def test_a_task_needs_an_engine_and_nothing_else() -> None:
    task = read()
    assert task.name == "main"
    assert task.resources == RESOURCES_DEFAULT
    assert task.timeouts == TimeoutsSpec(execution_s=0, queue_s=300, total_s=0)
    assert (task.network, task.publisher) == (NetworkSpec("default"), PublisherSpec("local"))
    assert task.to_plain() == {
        "Name": "main",
        "Engine": ENGINE,
        "Publisher": {"Type": "local"},
        "Resources": {"CPU": "100m", "Memory": 67108864, "Disk": 0, "GPU": 0},
        "Network": {"Type": "default"},
        "Timeouts": {"ExecutionTimeout": 0, "QueueTimeout": 300, "TotalTimeout": 0},
    }


def test_timeouts_are_read_in_seconds_or_words() -> None:
    assert read(Timeouts={"ExecutionTimeout": "1h30m", "QueueTimeout": 0}).timeouts == (
        TimeoutsSpec(execution_s=5400, queue_s=0)
    )


def test_a_total_timeout_shortens_the_default_wait_in_the_queue() -> None:
    timeouts = read(Timeouts={"ExecutionTimeout": 50, "TotalTimeout": 60}).timeouts
    assert timeouts == TimeoutsSpec(execution_s=50, queue_s=10, total_s=60)


@pytest.mark.parametrize("wrong", [{"ExecutionTimeout": 70}, {"QueueTimeout": "61s"}])
def test_timeouts_that_contradict_each_other_are_refused(wrong: dict[str, Plain]) -> None:
    with pytest.raises(JobSpecError, match=r"T.Timeouts: .* more than the TotalTimeout of 60 s"):
        read(Timeouts={"TotalTimeout": 60, **wrong})


def test_a_standing_task_has_no_timeouts() -> None:
    assert read(standing=True, Timeouts={"ExecutionTimeout": 5}).timeouts == TimeoutsSpec()
    with pytest.raises(JobSpecError):  # ignored, but not unread
        read(standing=True, Timeouts={"ExecutionTimeout": "soon"})


def test_the_environment_is_sorted_strings() -> None:
    task = read(Env={"PORT": 8080, "A": "x", "lower_1": ""}, Meta={"org/team": "net"})
    assert list(task.env.items()) == [("A", "x"), ("PORT", "8080"), ("lower_1", "")]
    assert task.to_plain()["Env"] == {"A": "x", "PORT": "8080", "lower_1": ""}
    assert task.to_plain()["Meta"] == {"org/team": "net"}


def test_result_paths_and_inputs_are_kept_in_order() -> None:
    paths: Plain = [{"Name": "b", "Path": "/out/b/"}, {"Name": "a", "Path": "a"}]
    source: Plain = {"Source": {"Type": "inline", "Params": {"URL": "data:,"}}, "Target": "x"}
    task = read(ResultPaths=paths, InputSources=[source], Network={"Type": "None"})
    assert [(p.name, p.path) for p in task.result_paths] == [("b", "/out/b"), ("a", "a")]
    assert TaskSpec.read(Node(task.to_plain()), ("process",), standing=False) == task


@pytest.mark.parametrize(
    ("written", "type_"),
    [("Full", "host"), ("HOST", "host"), ("None", "none"), (None, "default")],
)
def test_networks_are_bacalhaus(written: Plain, type_: str) -> None:
    assert read(Network={"Type": written}).network.type == type_


def test_a_process_has_no_bridge() -> None:
    with pytest.raises(JobSpecError, match=r"the device's own network.* write None or Host"):
        read(Network={"Type": "bridge"})


def test_an_empty_publisher_is_the_local_one() -> None:
    for publisher in ({}, {"Type": ""}, {"Type": "Local", "Params": {}}):
        assert read(Publisher=publisher).publisher == PublisherSpec("local")


S3: Plain = {"Type": "s3", "Params": {"Bucket": "results", "Key": "out"}}


def test_a_bucket_is_a_publisher_of_what_ends_and_leaves_files() -> None:
    paths: Plain = [{"Name": "a", "Path": "a"}]
    task = read(Publisher=S3, ResultPaths=paths)
    assert task.publisher.s3 is not None and task.publisher.s3.place.bucket == "results"
    assert TaskSpec.read(Node(task.to_plain()), ("process",), standing=False) == task
    plain: Plain = {**task.to_plain()}
    with pytest.raises(JobSpecError, match="a daemon or service has no end") as caught:
        TaskSpec.read(Node(plain, "T"), ("process",), standing=True)
    assert caught.value.path == "T.Publisher"


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"Enviroment": {}}, "T.Enviroment", "unknown key; allowed: Name, Engine, Env"),
        ({"Engine": None}, "T.Engine", "missing"),
        ({"Name": "-"}, "T.Name", "'-' is not a name here; allowed: 1 to 63 letters"),
        ({"Name": 5}, "T.Name", "5 is not a string; put it in quotes"),
        ({"Env": []}, "T.Env", "a list is not a mapping"),
        ({"Env": {"1X": ""}}, "T.Env.1X", "is not a variable's name"),
        ({"Env": {"Shoal_JOB": ""}}, "T.Env.Shoal_JOB", "belong to the agent"),
        ({"Env": {"X": True}}, "T.Env.X", "true is not a string; put it in quotes"),
        ({"Env": {"X": 1.1}}, "T.Env.X", "1.1 is not a string; put it in quotes"),
        ({"Env": {"X": "env:"}}, "T.Env.X", "names no variable; allowed: e.g. env:API_TOKEN"),
        ({"Env": {"X": "env:A B"}}, "T.Env.X", "names no variable"),
        ({"Env": {"X": "a\0"}}, "T.Env.X", "holds a NUL"),
        ({"Env": {"X": "\ud800"}}, "T.Env.X", "surrogate"),
        ({"Env": {"X": "ä" * 2049}}, "T.Env.X", "4098 bytes; allowed: at most 4096"),
        ({"Env": {f"X{i}": "" for i in range(65)}}, "T.Env", "65 entries; allowed: at most 64"),
        ({"Meta": {"a b": ""}}, "T.Meta.a b", "'a b' is not a key here"),
        ({"Publisher": {"Type": "ipfs"}}, "T.Publisher.Type", "not a publisher this version has"),
        ({"Publisher": {"Type": "s3"}}, "T.Publisher.Params", "missing"),
        ({"Publisher": S3}, "T.Publisher", "there is nothing to publish without ResultPaths"),
        ({"Publisher": {"Params": {"a": 1}}}, "T.Publisher.Params.a", "unknown key; allowed: none"),
        ({"Network": {"Type": "http"}}, "T.Network.Type", "allowed: default, none, host, bridge"),
        ({"Network": {"Type": 3}}, "T.Network.Type", "3 is not a string"),
        ({"Network": {"domains": []}}, "T.Network.domains", "not something this version has"),
        ({"Timeouts": {"ExecutionTimeout": "2y"}}, "T.Timeouts.ExecutionTimeout", "15m"),
        ({"Timeouts": {"QueueTimeout": -1}}, "T.Timeouts.QueueTimeout", "is not a duration"),
        ({"Timeouts": {"TotalTimeout": "367d"}}, "T.Timeouts.TotalTimeout", "0s to 366d"),
        ({"Timeouts": {"Timeout": 1}}, "T.Timeouts.Timeout", "unknown key, did you mean"),
        ({"ResultPaths": [{"Name": "a"}]}, "T.ResultPaths[0].Path", "missing"),
        (
            {"ResultPaths": [{"Name": "a", "Path": "x"}, {"Name": "a", "Path": "y"}]},
            "T.ResultPaths[1]",
            "the name 'a' is taken",
        ),
        (
            {"ResultPaths": [{"Name": "a", "Path": "x"}, {"Name": "b", "Path": "./x"}]},
            "T.ResultPaths[1]",
            "the path 'x' is taken",
        ),
    ],
)
def test_errors_name_the_place(fields: dict[str, Plain], path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read(**fields)
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


def test_a_key_given_in_two_letter_cases_is_refused() -> None:
    with pytest.raises(JobSpecError, match=r"T.ENV: given twice, first as T.Env"):
        read(Env={}, ENV={})


# ---- standard input ----------------------------------------------------------------------------


def source(target: str = "message", url: str = "data:,hello") -> Plain:
    return {"Source": {"Type": "inline", "Params": {"URL": url}}, "Target": target}


def archive(target: str) -> Plain:
    params: Plain = {"Digest": "a" * 64, "Size": 1}
    return {"Source": {"Type": "archive", "Params": params}, "Target": target}


@pytest.mark.parametrize(
    ("target", "stdin"), [("in", "./in"), ("/data", "data"), ("in/x", "in/x"), ("in", "in/more")]
)
def test_a_file_of_its_inputs_may_be_its_standard_input(target: str, stdin: str) -> None:
    task = read(InputSources=[source(target)], Stdin=stdin)
    assert task.stdin == stdin.removeprefix("./")
    assert read(**{k: v for k, v in task.to_plain().items() if k != "Engine"}) == task


def test_it_may_be_any_file_of_an_archive() -> None:
    assert read(InputSources=[archive(".")], Stdin="a/b").stdin == "a/b"
    assert read(InputSources=[archive("in")], Stdin="in/b").stdin == "in/b"


@pytest.mark.parametrize("stdin", ["other", "message2", "mess", "../message", ""])
def test_standard_input_is_a_file_of_its_inputs(stdin: str) -> None:
    with pytest.raises(JobSpecError, match=r"T\.Stdin: "):
        read(InputSources=[source()], Stdin=stdin)


def test_a_directory_of_the_device_is_no_standard_input() -> None:
    device: Plain = {
        "Source": {"Type": "localDirectory", "Params": {"SourcePath": "/srv"}},
        "Target": "d",
    }
    with pytest.raises(JobSpecError, match="in none of the task's InputSources; their targets: d"):
        read(InputSources=[device], Stdin="d/x")


def test_a_container_has_no_standard_input_here() -> None:
    engine: Plain = {"Type": "docker", "Params": {"Image": "busybox"}}
    task: Plain = {"Engine": engine, "InputSources": [source()], "Stdin": "message"}
    with pytest.raises(JobSpecError, match=r"T\.Stdin: a container is given .*; leave Stdin out"):
        TaskSpec.read(Node(task, "T"), ("docker",), standing=False)

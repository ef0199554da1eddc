"""The JSON Schema: it knows the keys that the reader knows, and takes what the reader takes."""

from __future__ import annotations

from typing import cast

import jsonschema
import pytest

from protocol import (
    constraints,
    container,
    engine,
    inputs,
    job,
    network,
    publisher,
    resources,
    retry,
    task,
    trigger,
    volumes,
)
from protocol.errors import JobSpecError
from protocol.job import JobSpec
from protocol.schema import job_schema
from protocol.tree import Plain

VALIDATOR = jsonschema.Draft202012Validator(job_schema())
PROCESS: Plain = {"Type": "process", "Params": {"Command": ["true"]}}


def job_tree(type_: str = "batch", **fields: Plain) -> dict[str, Plain]:
    return {"Name": "job", "Type": type_, "Tasks": [{"Engine": PROCESS}], **fields}


def task_tree(**fields: Plain) -> dict[str, Plain]:
    return job_tree(Tasks=[{"Engine": PROCESS, **fields}])


def source_tree(kind: str, **params: Plain) -> dict[str, Plain]:
    source: Plain = {"Type": kind, "Params": {**params}}
    return task_tree(InputSources=[{"Target": "x", "Source": source}])


def properties(*path: str) -> tuple[str, ...]:
    at: Plain = job_schema()
    for step in path:
        assert isinstance(at, dict)
        at = at[step]
    assert isinstance(at, dict)
    assert at["additionalProperties"] is False
    return tuple(cast("dict[str, Plain]", at["properties"]))


def test_it_is_a_schema_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(job_schema())


def test_its_keys_are_those_that_the_reader_knows() -> None:
    tasks = ("properties", "Tasks", "items")
    assert properties() == job.FIELDS
    assert properties("properties", "Retry") == retry.RETRY_FIELDS
    assert properties("properties", "Disconnect") == retry.DISCONNECT_FIELDS
    assert properties("properties", "Constraints", "items") == constraints.FIELDS
    assert properties(*tasks) == task.FIELDS
    for key, fields in (
        ("Engine", engine.ENGINE_FIELDS),
        ("Publisher", publisher.FIELDS),
        ("Resources", resources.FIELDS),
        ("Network", network.FIELDS),
        ("Timeouts", task.TIMEOUT_FIELDS),
    ):
        assert properties(*tasks, "properties", key) == fields
    assert properties(*tasks, "properties", "ResultPaths", "items") == task.RESULT_FIELDS
    assert properties(*tasks, "properties", "Volumes", "items") == volumes.FIELDS
    source = (*tasks, "properties", "InputSources", "items")
    assert properties(*source) == inputs.FIELDS
    assert properties(*source, "properties", "Source") == inputs.SOURCE_FIELDS
    process = (*tasks, "properties", "Engine", "then", "properties", "Params")
    assert properties(*process) == engine.PROCESS_FIELDS
    params = (*tasks, "properties", "Engine", "else", "then", "properties", "Params")
    assert properties(*params) == container.FIELDS
    assert properties("properties", "Trigger") == trigger.FIELDS
    mqtt = ("properties", "Trigger", "properties", "Mqtt")
    assert properties(*mqtt) == trigger.MQTT_FIELDS
    assert properties(*mqtt, "properties", "Dedup") == trigger.DEDUP_FIELDS
    prefer = ("properties", "Trigger", "properties", "Prefer")
    assert properties(*prefer) == trigger.PREFER_FIELDS
    assert properties("properties", "Fired") == trigger.FIRED_FIELDS


def test_every_value_is_described() -> None:
    def walk(schema: Plain) -> None:
        if not isinstance(schema, dict):
            return
        for name, value in cast("dict[str, Plain]", schema.get("properties", {})).items():
            assert isinstance(value, dict)
            if "type" in value and name not in ("Params",):
                assert value.get("description"), name
        for value in schema.values():
            walk(value)

    walk(job_schema())


def test_an_agent_with_fewer_engines_lists_those() -> None:
    tree = task_tree(Engine={"Type": "wasm", "Params": {"EntryModule": "m"}})
    assert VALIDATOR.is_valid(tree)
    narrower = jsonschema.Draft202012Validator(job_schema(("process", "docker")))
    assert not narrower.is_valid(tree)


MODULE: dict[str, Plain] = {
    "Source": {"Type": "inline", "Params": {"URL": "data:,x"}},
    "Target": "m.wasm",
}


@pytest.mark.parametrize(
    "tree",
    [
        job_tree(),
        job_tree("service", Count=3, Spread=False, Disconnect={"StopAfter": "10m"}),
        job_tree("daemon", NotAfter="2030-01-01T00:00:00+01:00", Update={"HealthyAfter": "1m"}),
        job_tree("daemon", Retry={"Backoff": 5}, Constraints=None, Meta={"a": 1}, Labels=None),
        job_tree(Constraints=[{"Key": "arch", "Operator": "in", "Values": ["arm64"]}]),
        job_tree(Retry={"Attempts": 2, "On": ["failure"], "Backoff": "1m30s"}),
        {"Type": "ops", "Tasks": [{"Engine": PROCESS}]},
        task_tree(Engine={"Type": "process", "Params": {"Command": "echo hello"}}),
        task_tree(Engine={"Type": "docker", "Params": {"Image": "busybox"}}),
        task_tree(
            Engine={
                "Type": "docker",
                "Params": {
                    "Image": "ghcr.io/owner/name:1",
                    "Entrypoint": ["sh", "-c"],
                    "Parameters": ["echo $A", 5],
                    "EnvironmentVariables": ["A=1"],
                    "WorkingDirectory": "/app",
                    "User": 1000,
                    "Pull": "never",
                    "Devices": ["/dev/i2c-1"],
                    "Capabilities": ["NET_ADMIN"],
                },
            },
        ),
        task_tree(
            Engine={
                "Type": "wasm",
                "Params": {
                    "EntryModule": MODULE,
                    "ImportModules": [{**MODULE, "Target": "b.wasm", "Alias": "b"}, "m.wasm"],
                    "EntryPoint": "main",
                    "Parameters": ["--n", 5],
                    "EnvironmentVariables": {"A": 1},
                    "Fuel": 10**9,
                },
            },
        ),
        task_tree(
            Engine={
                "Type": "wasm",
                "Params": {"EntryModule": "m.wasm", "EnvironmentVariables": ["A=1"], "Fuel": None},
            },
            InputSources=[MODULE],
        ),
        task_tree(Resources={"CPU": "500m", "Memory": "1.5Gi", "Disk": 1000, "GPU": "1"}),
        task_tree(Resources={"CPU": 0.5, "Memory": "64 Mb", "Disk": None}),
        task_tree(Resources=None, Env={"A": 1}, Network={"Type": "full"}, Publisher={"Type": ""}),
        task_tree(Timeouts={"ExecutionTimeout": "1h30m", "QueueTimeout": 0}),
        task_tree(ResultPaths=[{"Name": "a", "Path": "out"}]),
        source_tree("inline", URL="data:,hello"),
        source_tree("archive", Digest="ab" * 32, Size="1Mi"),
        source_tree("s3", Bucket="readings"),
        source_tree("s3", Bucket="readings", Key="a/*", Filter="csv$", Region="us-east-1"),
        source_tree("s3", Bucket="readings", Key="a", ChecksumSHA256="ab" * 32, VersionID="v"),
        task_tree(
            ResultPaths=[{"Name": "a", "Path": "out"}],
            Publisher={
                "Type": "s3",
                "Params": {
                    "Bucket": "results",
                    "Key": "{jobID}",
                    "Endpoint": "http://minio.lan:9000",
                    "Encoding": "plain",
                },
            },
        ),
    ],
)
def test_what_the_reader_takes_it_takes_and_so_with_the_canonical_form(tree: Plain) -> None:
    VALIDATOR.validate(tree)
    VALIDATOR.validate(JobSpec.from_plain(tree).to_plain())


@pytest.mark.parametrize(
    "tree",
    [
        task_tree(Engine={"Type": "wasm", "Params": {}}),
        task_tree(Engine={"Type": "wasm", "Params": {"EntryModule": 5}}),
        task_tree(Engine={"Type": "wasm", "Params": {"EntryModule": "m", "Fuel": -1}}),
        task_tree(Engine={"Type": "wasm", "Params": {"EntryModule": "m", "Module": "m"}}),
        {"Type": "batch"},
        {"Type": "daemon", "Tasks": [{"Engine": PROCESS}]},
        job_tree("cron"),
        job_tree(Count=-1),
        job_tree(Unknown=1),
        job_tree(Tasks=[]),
        job_tree(Name="a/b"),
        job_tree(Labels={"a": True}),
        job_tree(Constraints=[{"Key": "a", "Operator": "~"}]),
        task_tree(Engine={"Type": "process"}),
        task_tree(Engine={"Type": "docker"}),
        task_tree(Engine={"Type": "docker", "Params": {"Command": ["true"]}}),
        task_tree(Engine={"Type": "process", "Params": {"Command": []}}),
        task_tree(Engine={"Type": "process", "Params": {"Command": ["sleep", 0.5]}}),
        task_tree(Resources={"CPU": -1}),
        task_tree(Resources={"Memory": "12XB"}),
        task_tree(Resources={"GPU": "half"}),
        task_tree(Timeouts={"ExecutionTimeout": "2y"}),
        task_tree(Env={"A": 1.5}),
        task_tree(Env={"1A": ""}),
        task_tree(Publisher={"Type": "ipfs"}),
        task_tree(Publisher={"Type": "s3"}),
        task_tree(Publisher={"Type": "s3", "Params": {"Bucket": "results"}}),
        task_tree(Publisher={"Type": "local", "Params": {"Bucket": "results"}}),
        source_tree("s3"),
        source_tree("s3", Bucket="readings", Object="a"),
        source_tree("inline", Digest="ab" * 32),
        source_tree("archive", Digest="ab", Size=1),
    ],
)
def test_what_it_refuses_the_reader_refuses(tree: Plain) -> None:
    assert not VALIDATOR.is_valid(tree)
    with pytest.raises(JobSpecError):
        JobSpec.from_plain(tree)

"""The job spec: one meaning, one canonical form, and an error that finds what is wrong."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import JobSpecError, RemoteProtocolError
from protocol.job import SPEC_BYTES_MAX, Disconnect, JobSpec, JobType, RetrySpec
from protocol.tree import Plain
from protocol.wire import scan

ENGINE: Plain = {"Type": "process", "Params": {"Command": ["true"]}}


def tree(type_: str = "batch", **fields: Plain) -> dict[str, Plain]:
    return {"Name": "job", "Type": type_, "Tasks": [{"Engine": ENGINE}], **fields}


def read(type_: str = "batch", **fields: Plain) -> JobSpec:
    return JobSpec.from_plain(tree(type_, **fields))


def test_the_smallest_job() -> None:
    job = JobSpec.from_plain({"type": "Batch", "tasks": [{"engine": ENGINE}]})
    assert (job.name, job.namespace, job.type) == ("main", "default", JobType.BATCH)
    assert (job.count, job.priority, job.spread) == (1, 0, False)
    assert (job.retry, job.disconnect) == (RetrySpec(), Disconnect())
    assert job.task == job.tasks[0]


def test_keys_are_read_in_any_letter_case() -> None:
    assert (
        JobSpec.from_plain(
            {
                "NAME": "job",
                "tYPE": "batch",
                "tasks": [{"engine": {"type": "PROCESS", "params": {"command": ["true"]}}}],
            }
        )
        == read()
    )


def test_two_files_that_mean_the_same_have_one_canonical_form() -> None:
    a = read(
        "service",
        Count=2,
        Labels={"b": "1", "a": "2"},
        Constraints=[
            {"Key": "zone", "Operator": "in", "Values": ["b", "a"]},
            {"Key": "gpu", "Operator": "exists"},
        ],
        Tasks=[
            {
                "Engine": ENGINE,
                "Resources": {"CPU": 0.5, "Memory": "1Gi"},
                "Timeouts": {"ExecutionTimeout": "1h"},
                "Meta": None,
            }
        ],
    )
    b = read(
        "Service",
        count=2,
        Spread=True,
        priority=0,
        labels={"a": 2, "b": "1"},
        Constraints=[
            {"Key": "gpu", "Operator": "Exists", "Values": []},
            {"Key": "zone", "Operator": "in", "Values": ["a", "b"]},
        ],
        Tasks=[{"Name": "main", "Engine": ENGINE, "Resources": {"CPU": "500m", "Memory": 2**30}}],
    )
    assert a == b
    assert a.encode() == b.encode()


def test_the_canonical_form_is_written_out() -> None:
    # A change here changes the hash of every job there is: leave new fields out at their default.
    assert read("service", Disconnect={"StopAfter": 60, "Replace": False}).to_plain() == {
        "Name": "job",
        "Namespace": "default",
        "Type": "service",
        "Priority": 0,
        "Count": 1,
        "Spread": True,
        "Retry": {"Backoff": 1},
        "Disconnect": {"StopAfter": 60, "Replace": False},
        "Tasks": [
            {
                "Name": "main",
                "Engine": ENGINE,
                "Publisher": {"Type": "local"},
                "Resources": {"CPU": "100m", "Memory": 67108864, "Disk": 0, "GPU": 0},
                "Network": {"Type": "default"},
                "Timeouts": {"ExecutionTimeout": 0, "QueueTimeout": 0, "TotalTimeout": 0},
            }
        ],
    }


@pytest.mark.parametrize("type_", ["ops", "daemon"])
@pytest.mark.parametrize("count", [0, 1])
def test_a_job_for_every_peer_has_no_count(type_: str, count: int) -> None:
    assert read(type_, Count=count) == read(type_)
    assert "Count" not in read(type_).to_plain()


@pytest.mark.parametrize("type_", ["daemon", "service"])
def test_a_standing_job_needs_a_name(type_: str) -> None:
    with pytest.raises(JobSpecError, match="Name: missing"):
        read(type_, Name=None)


@pytest.mark.parametrize("name", ["Docker Job with S3", "a", "x" * 63, "v1.2_b-c", "7"])
def test_bacalhaus_names_are_read(name: str) -> None:
    assert read(Name=name).name == name


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "-a", "a/b", "a+", "#", "x" * 64, "ü", "a\n", "a\0b", "*", "a" * 2000]
)
def test_names_that_no_topic_or_path_could_hold_are_refused(name: str) -> None:
    for field in ("Name", "Namespace"):
        with pytest.raises(JobSpecError) as caught:
            JobSpec.from_plain(tree(**{field: name}))
        assert caught.value.path == field


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        (tree("cron"), "Type", "'cron' is not a job type this version has; allowed: batch, ops"),
        (tree(Type=None), "Type", "missing; allowed: batch, ops, daemon, service"),
        (tree(Priorty=1), "Priorty", "unknown key, did you mean 'Priority'? allowed: Name, "),
        (tree(Priority=101), "Priority", "allowed: 0 to 100"),
        (tree(Priority=1.5), "Priority", "1.5 is not an integer"),
        (tree(Count=0), "Count", "0 slots; allowed: 1 to 10000; to end a job: shoal job stop"),
        (tree(Count=False), "Count", "false is not an integer"),
        (tree(Count=-1), "Count", "allowed: 1 to 10000"),
        (tree(Count="2"), "Count", "'2' is not an integer"),
        (tree("ops", Count=2), "Count", "an ops job runs on every peer that matches"),
        (tree("daemon", Count=False), "Count", "a daemon runs on every peer"),
        (tree(Spread=True), "Spread", "only a service has Spread"),
        (tree(Trigger={}), "Trigger.Mqtt", "missing"),
        (tree(notafter="2030-01-01T00:00:00Z"), "notafter", "a batch job ends by itself"),
        (tree(HealthyAfter=1), "HealthyAfter", "belongs into Update"),
        (tree(Update={}), "Update", "one revision all its life"),
        (tree(ID="x"), "ID", "is set by the agent"),
        (tree(Labels={"": "x"}), "Labels.", "'' is not a key here"),
        (tree(Labels={"a": "x" * 257}), "Labels.a", "at most 256"),
        (tree(Meta={f"k{i}": "" for i in range(33)}), "Meta", "33 entries; allowed: at most 32"),
        (tree(Tasks=None), "Tasks", "missing"),
        (tree(Tasks=[]), "Tasks", "0 tasks; allowed: exactly one"),
        (tree(Tasks=[{}, {}]), "Tasks", "2 tasks; allowed: exactly one"),
        (tree(Tasks={}), "Tasks", "a mapping is not a list"),
        (tree(Tasks=[{"Engine": {"Typ": 1}}]), "Tasks[0].Engine.Typ", "did you mean 'Type'?"),
        ([], "", "a list is not a mapping"),
        (None, "", "null is not a mapping"),
    ],
)
def test_errors_name_the_place(given: Plain, path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        JobSpec.from_plain(given)
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


def test_the_path_is_as_written() -> None:
    with pytest.raises(JobSpecError) as caught:
        JobSpec.from_plain({"type": "batch", "tasks": [{"engine": {"typ": "process"}}]})
    assert str(caught.value) == (
        "tasks[0].engine.typ: unknown key, did you mean 'Type'? allowed: Type, Params"
    )


def test_a_job_larger_than_a_record_is_refused() -> None:
    env: Plain = {f"X{i}": "x" * 4000 for i in range(20)}
    with pytest.raises(JobSpecError, match="bytes as a record; allowed: 65536; ship files"):
        read(Tasks=[{"Engine": ENGINE, "Env": env}])


def test_the_widest_and_deepest_job_passes_the_scan_of_its_record() -> None:
    """Peers read no more than 8192 items, 8 deep, and no job comes near."""
    source: Plain = {
        "Source": {"Type": "inline", "Params": {"URL": "data:,"}},
        "Target": "m",
        "Alias": "a",
    }
    params: Plain = {
        "EntryModule": "m",
        "ImportModules": ["m"] * 16,
        "Parameters": ["x"] * 256,
        "EnvironmentVariables": [f"E{i}=" for i in range(64)],
    }
    many: Plain = {f"k{i}": "" for i in range(32)}
    values: Plain = [f"{i}" for i in range(64)]
    spec = read(
        Constraints=[{"Key": f"k{i}", "Operator": "in", "Values": values} for i in range(32)],
        Meta=many,
        Labels=many,
        Tasks=[
            {
                "Engine": {"Type": "wasm", "Params": params},
                "InputSources": [source],
                "ResultPaths": [{"Name": f"r{i}", "Path": f"p{i}"} for i in range(16)],
                "Env": {f"V{i}": "" for i in range(64)},
                "Meta": many,
            }
        ],
    )
    scan(spec.encode(), SPEC_BYTES_MAX)
    assert JobSpec.decode(spec.encode()) == spec


def test_a_record_that_is_no_job_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        JobSpec.decode(b"\xff")
    with pytest.raises(JobSpecError, match="a value of type bytes is not a string"):
        JobSpec.decode(cbor2.dumps(tree() | {"Name": b"x"}, canonical=True))


NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,8}[A-Za-z0-9])?", fullmatch=True)
KEYS = st.from_regex(r"[a-z][a-z0-9./_-]{0,8}[a-z0-9]", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
WORDS = st.dictionaries(KEYS, TEXT | st.integers(-9, 9), max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DURATIONS = st.integers(0, 9000) | st.integers(0, 100).map(lambda n: f"{n}m30s")
TASKS: st.SearchStrategy[Plain] = st.fixed_dictionaries(
    {
        "Engine": st.fixed_dictionaries(
            {
                "Type": st.just("Process"),
                "Params": st.fixed_dictionaries(
                    {"command": st.lists(TEXT.map(lambda t: "x" + t), min_size=1, max_size=4)},
                    optional={"WorkingDirectory": PATHS},
                ),
            }
        )
    },
    optional={
        "Name": NAMES,
        "Env": st.dictionaries(
            KEYS.map(lambda k: "X_" + k.translate({46: 95, 47: 95, 45: 95})),
            st.integers(0, 9) | TEXT.map(lambda t: " " + t),
        ),
        "ResultPaths": st.lists(st.fixed_dictionaries({"Name": NAMES, "Path": PATHS}), max_size=1),
        "InputSources": st.lists(
            st.fixed_dictionaries(
                {
                    "Source": st.fixed_dictionaries(
                        {
                            "Type": st.just("archive"),
                            "Params": st.just({"Digest": "0a" * 32, "Size": "3Mb"}),
                        }
                    ),
                    "Target": PATHS,
                }
            ),
            max_size=1,
        ),
        "Resources": st.fixed_dictionaries(
            {},
            optional={
                "CPU": st.integers(1, 5000).map(lambda m: f"{m}m") | st.floats(0.01, 8),
                "Memory": st.integers(1, 5000).map(lambda m: f"{m}Mi"),
                "Disk": st.floats(0, 1e12),
                "GPU": st.sampled_from(["0", "1", 2]),
            },
        ),
        "Network": st.sampled_from([{}, {"Type": "None"}, {"Type": "Full"}]),
        "Timeouts": st.fixed_dictionaries(
            {}, optional={"ExecutionTimeout": DURATIONS, "QueueTimeout": DURATIONS}
        ),
        "Meta": WORDS,
    },
)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Plain]:
    kind = draw(st.sampled_from(JobType))
    job: dict[str, Plain] = {
        "Name": draw(NAMES),
        "Type": kind.value,
        "Tasks": [draw(TASKS)],
        "Meta": {**draw(WORDS)},
        "Labels": {**draw(WORDS)},
        "Priority": draw(st.integers(0, 100) | st.none()),
    }
    if kind.counted:
        job["Count"] = draw(st.integers(1, 10_000))
        job["Disconnect"] = {"Replace": draw(st.booleans())}
    if kind is JobType.SERVICE:
        job["Spread"] = draw(st.booleans())
    if kind is JobType.BATCH:
        job["Retry"] = {"Attempts": draw(st.integers(1, 100))}
    return job


@settings(deadline=None)
@given(jobs())
def test_the_canonical_form_reads_back(given: dict[str, Plain]) -> None:
    spec = JobSpec.from_plain(given)
    assert JobSpec.from_plain(spec.to_plain()) == spec
    assert JobSpec.decode(spec.encode()) == spec
    assert JobSpec.decode(spec.encode()).encode() == spec.encode()
    scan(spec.encode())


PLAIN: st.SearchStrategy[Plain] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(jobs(), st.data())
def test_whatever_is_put_anywhere_raises_nothing_but_a_spec_error(
    given: dict[str, Plain], data: st.DataObject
) -> None:
    at: Plain = given
    while isinstance(at, (dict, list)) and at:
        keys: list[object] = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        inner: Plain = at[key]  # type: ignore[index, call-overload]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            at[key] = data.draw(PLAIN)  # type: ignore[index, call-overload]
            break
        at = inner
    try:
        spec = JobSpec.from_plain(given)
    except JobSpecError as error:
        assert error.message
    else:
        assert JobSpec.from_plain(spec.to_plain()) == spec


# ---- publishing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "key", "fits"),
    [
        ({"Type": "batch"}, "latest", True),
        ({"Type": "batch", "Count": 2}, "latest", False),
        ({"Type": "batch", "Count": 2}, "{nodeID}", False),
        ({"Type": "batch", "Count": 2}, "a/{executionID}", True),
        ({"Type": "ops"}, "latest", False),
        ({"Type": "ops"}, "{nodeID}", True),
        ({"Type": "ops"}, "{executionID}", True),
    ],
)
def test_slots_do_not_publish_to_one_place(fields: dict[str, Plain], key: str, fits: bool) -> None:
    task: Plain = {
        "Engine": {"Type": "process", "Params": {"Command": ["true"]}},
        "ResultPaths": [{"Name": "a", "Path": "a"}],
        "Publisher": {"Type": "s3", "Params": {"Bucket": "results", "Key": key}},
    }
    tree: Plain = {"Name": "job", "Tasks": [task], **fields}
    if fits:
        JobSpec.from_plain(tree)
        return
    with pytest.raises(JobSpecError, match="would overwrite each other's results") as caught:
        JobSpec.from_plain(tree)
    assert caught.value.path == "Tasks[0].Publisher.Params.Key"

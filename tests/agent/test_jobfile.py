"""Job files: YAML 1.2 and JSON, the line of every error, nothing that grows or shares."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobfile import (
    EXAMPLES,
    FILE_BYTES_MAX,
    JobFileError,
    example,
    filled,
    load_job,
    load_tree,
)
from protocol.job import JobSpec, JobType
from protocol.schema import job_schema
from protocol.sources import InlineSource
from protocol.tree import Plain
from tests import wat

JOB = """\
name: job
type: batch
tasks:
  - name: main
    engine:
      type: process
      params:
        command: [echo, on, 22:22, 0755, 1]
"""


def values(text: str) -> Plain:
    return load_tree(text)[0]


def failure(text: str | bytes) -> str:
    with pytest.raises(JobFileError) as caught:
        load_job(text)
    return str(caught.value)


def test_a_file_becomes_a_job() -> None:
    job = load_job(JOB)
    assert job.task.engine.process.command == ("echo", "on", "22:22", "0755", "1")
    assert load_job(JOB.encode()) == job
    assert load_job(b"\xef\xbb\xbf" + JOB.encode().replace(b"\n", b"\r\n")) == job
    assert load_job(json.dumps(job.to_plain())) == job
    assert load_job(json.dumps(job.to_plain(), indent="\t")) == job


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_example_is_a_job_of_its_type(kind: str) -> None:
    text = example(kind)
    job = load_job(text)
    assert job.type == (kind if kind in list(JobType) else "batch")
    assert (job.schedule is not None) == (kind == "schedule")
    assert (job.parameters is not None) == (kind in ("template", "trigger"))
    assert (job.trigger is not None) == (kind == "trigger")
    assert text.startswith("# ")
    assert JobSpec.from_plain(job.to_plain()) == job
    validator = jsonschema.Draft202012Validator(job_schema())
    validator.validate(values(text))
    validator.validate(job.to_plain())


def test_a_wrong_cron_is_told_of_with_its_line() -> None:
    text = example("schedule").replace("30 2 * * *", "30 25 * * *")
    with pytest.raises(JobFileError, match=r"line \d+, Schedule.Cron: wrong hour '25'"):
        load_job(text)
    with pytest.raises(JobFileError, match=r"Schedule.TimeZone: unknown time zone 'Europe/Berlim'"):
        load_job(example("schedule").replace("Europe/Berlin ", "Europe/Berlim "))


S3 = """
Type: batch
Tasks:
  - Engine: {Type: process, Params: {Command: ["true"]}}
    InputSources:
      - Target: in
        Source:
          Type: s3
          Params: {Bucket: data, Key: "*", Filter: FILTER}
"""


def test_a_filter_that_is_no_regular_expression_is_told_of_with_its_line() -> None:
    assert load_job(S3.replace("FILTER", "'[.]csv$'")).task.input_sources
    with pytest.raises(JobFileError, match=r"line 9, .*Params.Filter: '\(' is not a regular"):
        load_job(S3.replace("FILTER", '"("'))


def test_a_peers_filter_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(text: str) -> None:
        raise AssertionError(text)

    tree, _ = load_tree(S3.replace("FILTER", "'[.]csv$'"))
    monkeypatch.setattr(re, "compile", compiled)
    JobSpec.from_plain(tree)


def test_a_wrong_expression_is_told_of_with_its_line() -> None:
    text = example("trigger").replace("state == 'ON'", "state = 'ON'")
    with pytest.raises(JobFileError, match=r"line \d+, Trigger.Mqtt.When: no JMESPath"):
        load_job(text)
    with pytest.raises(JobFileError, match=r"line \d+, Trigger.Mqtt.Topic: .* # is a level"):
        load_job(example("trigger").replace("home/+/motion", "home#"))


def test_what_bacalhau_writes_where_nothing_was_said_says_nothing() -> None:
    """Of `bacalhau job describe --output json`, and of its clients: Go's empty values."""
    engine = {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}
    source = {"Type": "urlDownload", "Params": {"URL": "https://example.org/x"}}
    bare = {"Engine": engine, "InputSources": [{"Source": source, "Target": "/in"}]}
    params = {
        **engine["Params"],
        "Entrypoint": None,
        "Parameters": [],
        "EnvironmentVariables": None,
        "WorkingDirectory": "",
    }
    task = {
        "Name": "main",
        "Engine": {"Type": "docker", "Params": params},
        "Publisher": {"Type": "", "Params": {}},
        "InputSources": [{"Source": source, "Alias": "", "Target": "/in"}],
        "ResultPaths": None,
        "Env": {},
        "Resources": {"CPU": "", "Memory": "", "Disk": "", "GPU": ""},
        "Network": {"Type": "", "Domains": None, "Ports": None},
        "Timeouts": {},
    }
    own = dict.fromkeys(("ID", "State", "Version", "Revision", "CreateTime", "ModifyTime"))
    full = {"Name": "a", "Type": "batch", "Constraints": None, **own}
    said = load_job(json.dumps({**full, "Tasks": [task]}))
    assert said == load_job(json.dumps({"Name": "a", "Type": "batch", "Tasks": [bare]}))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ({"Type": "HTTP", "Domains": ["example.org"]}, "filtering by domain"),
        ({"Type": "HTTP"}, "'HTTP' is not a network"),
    ],
)
def test_a_network_that_filters_is_refused_by_name(network: dict[str, object], why: str) -> None:
    engine = {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}
    with pytest.raises(JobFileError, match=why):
        load_job(json.dumps({"Type": "batch", "Tasks": [{"Engine": engine, "Network": network}]}))


def test_what_fired_a_run_stands_in_no_file() -> None:
    text = json.dumps(
        {**load_job(JOB).to_plain(), "Fired": {"Topic": "a", "Key": "k", "Input": "file"}}
    )
    with pytest.raises(JobFileError, match="Fired: is set by the agent; leave it out"):
        load_job(text)


def test_the_module_of_the_example_is_the_one_that_can_be_read() -> None:
    source = load_job(example("wasm")).task.input_sources[0].source
    assert isinstance(source, InlineSource)
    assert source.content() == wat.EXAMPLE


def test_there_is_no_example_of_another_type() -> None:
    with pytest.raises(ValueError, match="cron"):
        example("cron")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("22:22", "22:22"),
        ("2026-11-23", "2026-11-23"),
        ("0755", "0755"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("|\n  1", "1\n"),
        ("1", 1),
        ("-7", -7),
        ("+7", 7),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("[]", []),
        ("{}", {}),
        ("9" * 41, float("9" * 41)),
    ],
)
def test_scalars_are_yaml_1_2(written: str, value: Plain) -> None:
    assert values(f"a: {written}\n") == {"a": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JOB.replace("type: process", "typ: process"), "line 6, tasks[0].engine.typ: unknown key"),
        (JOB.replace("process", "java"), "line 6, tasks[0].engine.type: 'java' is not an"),
        (JOB.replace("command: [", "command: [[], "), "line 8, tasks[0].engine.params.command[0]:"),
        (JOB.replace("command", "comand"), "line 8, tasks[0].engine.params.comand: unknown key"),
        (
            JOB.replace("        command: [echo, on, 22:22, 0755, 1]\n", ""),
            "line 7, tasks[0].engine.params.Command: missing",
        ),
        (JOB.replace("    engine:", "    engin:"), "line 5, tasks[0].engin: unknown key, did you"),
        (JOB.replace("type: batch", ""), "line 1, Type: missing; allowed: batch, ops"),
        (JOB + "labels: {a.b/c: [1]}\n", "line 9, labels.a.b/c: a list is not a string"),
        (JOB + "type: ops\n", "line 9, type: duplicate key"),
        (JOB + "Type: ops\n", "line 9, Type: given twice, first as type"),
        (JOB + "---\nname: x\n", "line 9: a second document; allowed: one job in a file"),
        ("a: &x 1\n", "line 1, a: anchors are not used"),
        ("a: 1\nb: *x\n", "line 2, b: aliases are not used"),
        ("a: 1\n*x : 2\n", "line 2: aliases are not used"),
        ("a: 1\nb: !!python/object:x {}\n", "line 2, b: tags are not used"),
        ("? [a]\n: b\n", "line 1: a key has to be a plain word"),
        ("a: b: c\n", "line 1: not YAML: mapping values are not allowed"),
        ("a:\n  - b\n - c\n", "line 3: not YAML: "),
        ("a: \0", "not YAML: "),
        ('a: "\\ud800"', "line 1: not YAML: "),
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- 1\n", "line 1: a list is not a mapping"),
        ("hello", "line 1: 'hello' is not a mapping"),
        ("[" * 60_000, "nested deeper than 16"),
        ("{a: " * 15_000, "nested deeper than 16"),
        ("[" + "1," * 20_000 + "]", "line 1: more than 10000 values"),
        ("x" * (FILE_BYTES_MAX + 1), "65537 bytes; allowed: 65536; ship files instead"),
        (b"a: \xff", "not UTF-8"),
        ("a: \ud800", "not UTF-8"),
    ],
)
def test_errors_name_the_line(text: str | bytes, message: str) -> None:
    assert message in failure(text)


def test_a_line_is_only_told_where_there_is_one() -> None:
    with pytest.raises(JobFileError) as caught:
        load_job(JOB.replace("process", "java"))
    assert (caught.value.line, caught.value.path) == (6, "tasks[0].engine.type")
    with pytest.raises(JobFileError) as caught:
        load_job("")
    assert (caught.value.line, caught.value.path) == (None, "")


def test_json_keeps_its_lines_tabs_and_surrogate_pairs() -> None:
    text = '{\n\t"a":\t"\\ud83d\\ude00 \\\\ud83d \\u00e4",\n\t"b": 1}'
    tree, lines = load_tree(text)
    assert tree == json.loads(text) == {"a": "😀 \\ud83d ä", "b": 1}
    assert (lines["a"], lines["b"]) == (2, 3)


def test_what_only_begins_like_json_is_read_as_yaml() -> None:
    assert values('{a: 1, "b": "\\u00e4"}') == {"a": 1, "b": "ä"}
    assert "not YAML" in failure("{\t")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.sampled_from([None, "\t", 2]))
def test_all_json_is_read(tree: dict[str, Plain], indent: str | int | None) -> None:
    try:
        read = values(json.dumps(tree, indent=indent))
    except JobFileError as error:
        assert "nested deeper" in str(error)
    else:
        assert read == tree


@given(st.text(max_size=80))
def test_no_text_raises_anything_but_a_file_error(text: str) -> None:
    with pytest.raises(JobFileError):
        load_job(text)


def test_reading_a_file_imports_neither_trio_nor_libp2p() -> None:
    code = "import sys, agent.jobfile; sys.exit(any(m in sys.modules for m in ('trio', 'libp2p')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BACALHAU = Path(__file__).parents[1] / "bacalhau"


def test_every_field_of_bacalhaus_is_read_with_its_meaning() -> None:
    text = (BACALHAU / "every-field.yaml").read_bytes()
    spec = load_job(filled(text, {"day": "2026-11-27"}))
    assert (spec.name, spec.namespace, spec.priority, spec.count) == ("Every Field", "lab", 50, 3)
    constraints = sorted(str(each) for each in spec.constraints)
    assert constraints == ["!camera", "os_arch=arm64", "ram>4", "zone in (attic,garage)"]
    assert (spec.meta, spec.labels) == ({"owner": "weather@example.org"}, {"project": "weather"})
    task: Any = spec.task  # of each union in it the one that is written there
    assert (task.name, task.meta) == ("main", {"step": "first"})
    assert task.env == {"PLACE": "attic", "TOKEN": "env:WEATHER_TOKEN"}
    docker = task.engine.container
    assert docker.entrypoint == ("/bin/weather",) and docker.working_directory == "/work"
    assert docker.parameters == ("--day", "2026-11-27")
    assert docker.environment == ("UNITS=metric",)
    many, one, page, own, note = (each.source for each in task.input_sources)
    assert [each.target for each in task.input_sources] == [
        "/maps", "/one", "/page", "/own", "/note",
    ]  # fmt: skip
    assert task.input_sources[0].alias == "maps"
    assert (many.key, many.many, many.filter) == ("tiles/", True, "^[0-9]+$")
    assert (many.place.bucket, many.place.region) == ("maps", "eu-central-1")
    assert many.place.endpoint == "https://s3.example.org"
    assert (one.key, one.many, one.version, one.digest) == ("world.png", False, "7", "0" * 64)
    assert (page.url, page.file_name) == ("https://example.org/days.csv", "days.csv")
    assert (own.path, own.writable, note.content()) == ("/srv/weather", True, b"wind")
    target = task.publisher.s3
    assert (target.key, target.encoding) == ("weather/{jobID}/{executionID}", "plain")
    assert (target.place.bucket, target.place.region) == ("results", "eu-central-1")
    assert [(each.name, each.path) for each in task.result_paths] == [("out", "/out")]
    resources = task.resources
    assert (resources.cpu_m, resources.gpu) == (1500, 1)
    assert (resources.memory_bytes, resources.disk_bytes) == (1_500_000_000, 2_000_000_000)
    assert task.network.type == "bridge"
    assert [(p.name, p.static, p.target) for p in task.network.ports] == [("http", 8080, 80)]
    timeouts = task.timeouts
    assert (timeouts.execution_s, timeouts.queue_s, timeouts.total_s) == (600, 120, 3600)


def test_every_field_of_bacalhaus_modules_is_read_with_its_meaning() -> None:
    spec = load_job(filled((BACALHAU / "wasm.yaml").read_bytes(), {}))
    assert (spec.name, spec.type, spec.count) == ("Report", "batch", 1)
    task: Any = spec.task
    module = task.engine.wasm
    assert (module.entry_module, module.import_modules) == ("app/report.wasm", ("/lib/math.wasm",))
    assert (module.entry_point, module.parameters) == ("report", ("--times", "2"))
    assert (module.environment, task.env) == (("UNITS=metric",), {"PLACE": "attic"})
    assert {each.target: each.source.content() for each in task.input_sources} == {
        "/app/report.wasm": wat.BACALHAU,
        "/lib/math.wasm": wat.SQUARES,
        "/inputs/words": b"tide\n",
    }
    assert [(each.name, each.path) for each in task.result_paths] == [("outputs", "/outputs")]
    assert (task.resources.cpu_m, task.resources.memory_bytes) == (100, 8_000_000)
    assert (task.network.type, task.timeouts.execution_s) == ("none", 60)


def test_letter_case_is_no_matter_and_json_no_other() -> None:
    text = filled((BACALHAU / "every-field.yaml").read_bytes(), {"day": "2026-11-27"})
    tree, _ = load_tree(text)

    def keys(tree: object, change: Callable[[str], str]) -> object:
        """All but names of variables and labels, which are the user's own."""
        if isinstance(tree, list):
            return [keys(each, change) for each in tree]
        if not isinstance(tree, dict):
            return tree
        own = ("Env", "Meta", "Labels")
        return {
            change(key): value if key in own else keys(value, change) for key, value in tree.items()
        }

    expected = load_job(text)
    for change in (str.lower, str.upper, lambda key: key[0].lower() + key[1:]):
        assert load_job(json.dumps(keys(tree, change))) == expected


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("ID", "j-1", "ID: is set by the agent; leave it out"),
        ("State", {"StateType": "Running"}, "State: is set by the agent; leave it out"),
        ("Priority", 101, "Priority: 101 is out of range; allowed: 0 to 100"),
        ("Count", 0, "Count: "),
        ("Tasks", [{}, {}], "Tasks: "),
        ("Tasks.0.Env", {"SHOAL_X": "1"}, "Tasks[0].Env"),
        ("Tasks.0.Env", {"BACALHAU_X": "1"}, "Tasks[0].Env"),
        ("Tasks.0.Publisher", {"Type": "ipfs"}, "'ipfs' is not a publisher"),
        ("Tasks.0.Publisher", {"Type": "s3managed"}, "'s3managed' is not a publisher"),
        ("Tasks.0.Publisher", {"Type": "noop"}, "'noop' is not a publisher"),
        ("Tasks.0.InputSources.2.Source", {"Type": "ipfs"}, "'ipfs' is not an input source"),
        ("Tasks.0.InputSources.0.Source.Params.Partition", {}, "Partition: is not something"),
        ("Tasks.0.InputSources.3.Source.Params.CreateAs", "dir", "CreateAs: is not something"),
        ("Tasks.0.Network.Domains", ["example.org"], "Domains: filtering by domain"),
        ("Tasks.0.Network.Ports.0.HostNetwork", "lan", "HostNetwork: is not a key here"),
        ("Tasks.0.Engine.Type", "noop", "'noop' is not an engine"),
    ],
)
def test_what_is_not_here_of_bacalhaus_is_refused_by_name(
    path: str, value: object, why: str
) -> None:
    """Each of README's table that says so; nothing of it is dropped without a word."""
    text = filled((BACALHAU / "every-field.yaml").read_bytes(), {"day": "2026-11-27"})
    tree, _ = load_tree(text)
    place: Any = tree
    *parts, last = path.split(".")
    for part in parts:
        place = place[int(part) if part.isdecimal() else part]
    place[int(last) if last.isdecimal() else last] = value
    with pytest.raises(JobFileError, match=re.escape(why)):
        load_job(json.dumps(tree))


def test_blanks_are_filled_as_in_bacalhaus_files() -> None:
    text = b"Name: {{.name}}\nCount: {{ .n }}\n"
    assert filled(text, {"name": "a", "n": "2"}) == b"Name: a\nCount: 2\n"
    with pytest.raises(JobFileError, match=r"line 2: {{ .n }} has no value; give it with -V n="):
        filled(text, {"name": "a"})
    with pytest.raises(JobFileError, match=r"-V more: the file has no {{.more}}"):
        filled(text, {"name": "a", "n": "2", "more": "x"})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a\n  {{- .x -}} \n\t b", "a1b"),
        ("a {{- .x}} b {{.x -}} c", "a1 b 1c"),
        ("a {{- /* of\n{{.no}} */ -}} b{{/**/}} c", "ab c"),
        ("{{ `{{json .}}` }} {{`a\r\nb`}}", "{{json .}} a\nb"),
        ('--format={{"{{"}}.Names}} {{.x}}}', "--format={{.Names}} 1}"),
        ('{{"" }}{{``}}{a: {b: {}}} }}', "{a: {b: {}}} }}"),
        ("{{\n.x\n}} {{.x}}{{.x}}", "1 11"),
    ],
)
def test_what_else_go_puts_in_as_it_stands_is_put_in(text: str, meant: str) -> None:
    """As Go 1.26's text/template does of each, with missingkey=error as Bacalhau has it."""
    assert filled((text + "{{.x}}").encode(), {"x": "1"}) == f"{meant}1".encode()


@pytest.mark.parametrize(
    "action",
    [
        "{{json .}}",
        "{{x}}",
        "{{ value_json.temperature }}",
        "{{1,2},{3,4}}",
        "{{.}}",
        "{{}}",
        "{{.a.b}}",
        "{{.x | print}}",
        "{{if .x}}a{{end}}",
        "{{range .x}}",
        "{{.x-}}",
        "{{-.x}}",
        "{{ /* late */ }}",
        "{{/* a */ b */}}",
        '{{"a\\n"}}',
        "{{{.x}}}",
        "{{.x",
        "{{",
    ],
)
def test_what_a_template_of_go_does_beside_is_refused_with_its_line(action: str) -> None:
    """Go fails at most of them, so that no file for Bacalhau has them as text of a script; the
    others it would make something of."""
    text = f"Name: {{{{.x}}}}\nCommand: {action}\n"
    with pytest.raises(JobFileError, match="--no-template") as caught:
        filled(text.encode(), {"x": "1"})
    assert caught.value.line == 2
    assert "is not a blank as {{.NAME}} is" in str(caught.value)

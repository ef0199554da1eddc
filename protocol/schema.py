"""JSON Schema (2020-12) of a job file, for editors: the keys, forms and bounds that `job` reads.

It is for completing and underlining as one types; `JobSpec.from_plain` has the last word. It is
narrower in one way (keys only in PascalCase, since a schema cannot fold case) and wider in others
(what depends on two fields at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol import (
    check,
    constraints,
    container,
    engine,
    inputs,
    job,
    network,
    publisher,
    resources,
    retry,
    s3,
    schedule,
    sources,
    task,
    template,
    trigger,
    update,
    volumes,
    wasm,
)
from protocol.moment import MOMENT_ALLOWED
from protocol.paths import PATH_BYTES_MAX
from protocol.quantities import COUNT_ALLOWED, CPU_ALLOWED, DURATION_ALLOWED, SIZE_ALLOWED
from protocol.tree import INT_MAX, KEY, NAME, NAME_ALLOWED, Plain

Schema = dict[str, Plain]

SCHEMA_URI: Final = "https://json-schema.org/draft/2020-12/schema"

_CPU: Final = r"^\s*([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*[mM]?\s*$"
_SIZE: Final = r"^\s*([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*([kKmMgGtTpP][iI]?)?[bB]?\s*$"
_DURATION: Final = r"^\s*([0-9]+(\.[0-9]+)?(d|h|m|s|ms)?)+\s*$"
_MOMENT: Final = (
    r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.0+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})\s*$"
)


def job_schema(engines: Sequence[str] = engine.ENGINES) -> Schema:
    """The schema of a job file for an agent that has these engines."""
    return {
        "$schema": SCHEMA_URI,
        "title": "Shoal job",
        **_object(_job_properties(engines), required=["Type", "Tasks"]),
        "allOf": [_long_lived_need_a_name(), _held_by_all_need_a_name()],
    }


def _long_lived_need_a_name() -> Schema:
    standing: list[Plain] = [kind.value for kind in job.JobType if kind.standing]
    return {
        "if": {"properties": {"Type": {"enum": standing}}, "required": ["Type"]},
        "then": {"required": ["Name"]},
    }


def _held_by_all_need_a_name() -> Schema:
    names = ("Schedule", "Parameters", "Trigger")
    keys: list[Plain] = [{"required": [name]} for name in names]
    return {"if": {"anyOf": keys}, "then": {"required": ["Name"]}}


def _job_properties(engines: Sequence[str]) -> Schema:
    return {
        "Name": _name("What the job is called; a daemon or service needs one, and is known by it."),
        "Namespace": _name("Whose job it is. Default: default."),
        "Type": _enum(
            tuple(job.JobType),
            "batch: Count slots that end. ops: once on every peer that matches now. daemon: on "
            "every peer that matches, now and later. service: Count slots kept running.",
        ),
        "Priority": _integer(0, job.PRIORITY_MAX, "The higher, the sooner. Default: 0."),
        "Count": _integer(
            0, job.COUNT_MAX, "Slots of a batch or service job, at least 1. Default: 1."
        ),
        "Constraints": _array(
            _constraint(), constraints.CONSTRAINTS_MAX, "Conditions on a peer's labels; all hold."
        ),
        "Meta": _words(task.META_MAX, task.META_VALUE_BYTES_MAX, "Notes kept with the job."),
        "Labels": _words(task.META_MAX, job.LABEL_VALUE_BYTES_MAX, "Labels to find the job by."),
        "Retry": _retry(),
        "Spread": _flag("A service's slots run on different peers. Default: true."),
        "Disconnect": _disconnect(),
        "NotAfter": {
            "type": ["string", "null"],
            "pattern": _MOMENT,
            "description": "When a standing job or schedule expires; until when an ops job reaches "
            f"peers that match later. {MOMENT_ALLOWED[0].upper()}{MOMENT_ALLOWED[1:]}.",
        },
        "Update": _update(),
        "Schedule": _schedule(),
        "Parameters": _array(
            _parameter(), template.PARAMETERS_MAX, "Blanks of a template: ${name} in its task."
        ),
        "Trigger": _trigger(),
        "Fired": _fired(),
        "Check": _check(),
        "Tasks": {
            **_array(_task(engines), 1, "What runs in each slot: exactly one task for now."),
            "minItems": 1,
        },
    }


def _check() -> Schema:
    kinds: list[Plain] = [{"required": [kind]} for kind in check.KINDS]
    return _object(
        {
            "Exec": _array(
                _word(check.WORD_BYTES_MAX, "A word."),
                check.WORDS_MAX,
                "A command; exit code 0 is well.",
            ),
            "Http": _text(check.URL_BYTES_MAX, "A web page; a status below 400 is well."),
            "Tcp": _text(256, "host:port; well if somebody accepts a connection."),
            "Every": _duration("Default: 10s."),
            "Timeout": _duration("Of one check, not over Every. Default: 5s."),
            "Failures": _integer(
                1, check.FAILURES_MAX, "In a row; then it is started again. Default: 3."
            ),
        },
        "How it is found out whether a standing job's task is well, beside that it runs.",
    ) | {"oneOf": kinds}


def _retry() -> Schema:
    return _object(
        {
            "Attempts": _integer(
                1,
                retry.ATTEMPTS_MAX,
                f"Attempts in all (batch). Default: {retry.ATTEMPTS_DEFAULT}.",
            ),
            "Backoff": _duration("The first pause, doubled each time. Default: 1s."),
            "On": _array(
                _enum(
                    tuple(retry.RetryOn), "lost: the peer; system: the device; failure: the task."
                ),
                len(retry.RetryOn),
                "Causes to retry for (batch). Default: lost, system.",
            ),
        },
        "How often a slot is tried again.",
    )


def _disconnect() -> Schema:
    return _object(
        {
            "StopAfter": _duration("Stop the task after so long without contact. Default: never."),
            "Replace": _flag("Run the slot elsewhere when contact is lost. Default: true."),
        },
        "What happens when a peer and the job's coordinator lose each other.",
    )


def _update() -> Schema:
    return _object(
        {
            "MaxParallel": _integer(1, update.PARALLEL_MAX, "Peers in one wave. Default: 1."),
            "HealthyAfter": _duration("How long a new revision has to run. Default: 10s."),
            "OnFailure": _enum(
                tuple(update.OnFailure), "When it ends sooner than that. Default: rollback."
            ),
        },
        "How a daemon or service goes from one revision to the next.",
    )


def _constraint() -> Schema:
    operators = (*constraints.Operator, *constraints.ALIASES)
    return _object(
        {
            "Key": {**_text(128, "The label's key."), "pattern": _whole(KEY.pattern)},
            "Operator": _enum(operators, "As in Kubernetes' label selectors."),
            "Values": _array(
                _word(constraints.VALUE_BYTES_MAX, "A value."),
                constraints.VALUES_MAX,
                "One or more for in and notin, none for exists and !exists, else exactly one.",
            ),
        },
        "One condition on a peer's labels.",
        required=["Key", "Operator"],
    )


def _schedule() -> Schema:
    return _object(
        {
            "Cron": _text(schedule.CRON_BYTES_MAX, f"When. {schedule.CRON_ALLOWED.capitalize()}."),
            "TimeZone": _text(64, "Whose clock is meant, as Europe/Berlin. Default: UTC."),
            "Overlap": _enum(
                tuple(schedule.Overlap),
                "While the run before has not ended: skip this one, allow both, or replace that "
                "one. Default: skip.",
            ),
            "CatchUp": _integer(0, 1, "Make up for the latest missed run. Default: 0."),
            "Scope": _enum(
                tuple(schedule.Scope),
                "once: in the shoal, an ops job on every peer that matches then. each: on every "
                "peer that matches, by its own clock. Default: once.",
            ),
        },
        "When a batch or ops job runs again and again.",
        required=["Cron"],
    )


def _parameter() -> Schema:
    return _object(
        {
            "Name": {
                "type": "string",
                "pattern": _whole(template.NAME.pattern),
                "description": f"As in ${{name}}. {template.NAME_ALLOWED.capitalize()}.",
            },
            "Default": _word(template.VALUE_BYTES_MAX, "For a run that gives none."),
            "Description": _text(template.DESCRIPTION_BYTES_MAX, "What it is for."),
        },
        "A blank of a template.",
        required=["Name"],
    )


def _trigger() -> Schema:
    mqtt = _object(
        {
            "Broker": {
                "type": "string",
                "pattern": _whole(trigger.BROKER.pattern),
                "description": "The name of a broker in the devices' configuration.",
            },
            "Topic": _text(trigger.TOPIC_BYTES_MAX, "A topic filter, with + and #."),
            "QoS": _integer(0, trigger.QOS_MAX, "1: no message is lost. Default: 1."),
            "When": _text(
                trigger.EXPRESSION_BYTES_MAX, "JMESPath over the payload; fires where it is true."
            ),
            "Input": _enum(tuple(trigger.Input), "How the task is given it. Default: file."),
            "Debounce": _duration("After one that fires others are dropped so long. Default: 0."),
            "MaxPerMinute": _integer(
                1, trigger.PER_MINUTE_MAX, "More are refused. Default: no limit."
            ),
            "Dedup": _object(
                {
                    "Key": _text(
                        trigger.EXPRESSION_BYTES_MAX,
                        "JMESPath over the payload, for messages that bring no id.",
                    )
                },
                "Each message has an id, or a Key: those of one are one job, whoever hears them.",
            ),
            "Retained": _flag("Whether what the broker kept from earlier fires. Default: false."),
            "BytesMax": _quantity(_SIZE, "A longer payload is refused, 32Ki at most. 16Ki."),
            "Answers": _text(
                trigger.TOPIC_BYTES_MAX, "A filter of where answers may go. Default: anywhere."
            ),
        },
        "Messages at an MQTT broker.",
        required=["Broker", "Topic"],
    )
    near = _flag("Weigh the device that heard the message. Default: false.")
    return _object(
        {
            "Mqtt": mqtt,
            "Prefer": _object({"NearTrigger": near}, "What counts beside the usual."),
        },
        "What runs a template by itself.",
        required=["Mqtt"],
    )


def _fired() -> Schema:
    return _object(
        {
            "Topic": _text(trigger.TOPIC_BYTES_MAX, "Where it was heard."),
            "Key": _text(trigger.KEY_CHARS_MAX, "Which message it is."),
            "Input": _enum(tuple(trigger.Input), "How the task is given it."),
            "Payload": _text(trigger.BYTES_MAX, "Of Input: env."),
            "Near": _flag("As Prefer has it."),
        },
        "In no job file: of a run, the message that fired it.",
        required=["Topic", "Key", "Input"],
    )


def _task(engines: Sequence[str]) -> Schema:
    properties: Schema = {
        "Name": _name("Default: main."),
        "Engine": _engine(engines),
        "Env": {
            "type": ["object", "null"],
            "description": "Environment variables. SHOAL_ and BACALHAU_ names belong to the agent.",
            "additionalProperties": _word(task.ENV_VALUE_BYTES_MAX, "A value; quote true or 1.0."),
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "maxProperties": task.ENV_MAX,
        },
        "InputSources": _array(
            _input("Source", "Target"), inputs.INPUTS_MAX, "What is put beside the task."
        ),
        "Stdin": _path("A file of its InputSources that it reads as standard input."),
        "ResultPaths": _array(
            _object(
                {"Name": _name("What the result is called."), "Path": _path("Where it is.")},
                "A file or directory that is kept.",
                required=["Name", "Path"],
            ),
            task.RESULT_PATHS_MAX,
            "What is kept of the task, beside its output.",
        ),
        "Publisher": _publisher(),
        "Resources": _resources(),
        "Network": _object(
            {
                "Type": _enum(
                    (*network.NETWORKS, "full"), "default: as engine and device have it."
                ),
                "Ports": _array(_port(), network.PORTS_MAX, "Where the task is reached."),
            },
            "What the task may reach.",
        ),
        "Timeouts": _object(
            {
                "ExecutionTimeout": _duration("For one attempt; 0: none. Default: 0."),
                "QueueTimeout": _duration("To wait for a peer; 0: not at all. Default: 5m."),
                "TotalTimeout": _duration("For everything; 0: none. Default: 0."),
            },
            "Limits on the time of a batch or ops job.",
        ),
        "Meta": _words(task.META_MAX, task.META_VALUE_BYTES_MAX, "Notes kept with the task."),
        "Volumes": _array(_volume(), volumes.VOLUMES_MAX, "What a slot keeps on its device."),
    }
    return _object(properties, "What one slot runs.", required=["Engine"])


def _volume() -> Schema:
    return _object(
        {
            "Name": _name("What it is called; another name is another volume."),
            "Target": _path("Where the task finds it; in a container an absolute path."),
            "ReadOnly": {"type": ["boolean", "null"], "description": "Default: false."},
            "Without": _array(
                _name("A device, by name or id."),
                volumes.WITHOUT_MAX,
                "Devices that it is not looked for on any more, because they are gone for good.",
            ),
        },
        "A directory that outlives the task; its slot goes back to the device that has it.",
        required=["Name", "Target"],
    )


def _bucket() -> Schema:
    return _object(
        {
            **_s3_place(),
            "Key": _text(
                s3.KEY_BYTES_OF_TARGET_MAX,
                f"Where they go. {', '.join(s3.PLACEHOLDERS)} are replaced.",
            ),
            "Encoding": _enum(("", *s3.ENCODINGS), "One tar.gz, or file by file. Default: gzip."),
            "Compress": {
                "enum": [True, False, "true", "false", None],
                "description": "An older word: false is Encoding: plain.",
            },
        },
        "Parameters of s3.",
        ["Bucket", "Key"],
    )


def _s3_place() -> dict[str, Plain]:
    return {
        "Bucket": {"type": "string", "minLength": 3, "maxLength": 63, "description": "A bucket."},
        "Region": _text(64, "Default: the device's, or us-east-1."),
        "Endpoint": _text(s3.ENDPOINT_BYTES_MAX, "E.g. http://minio.lan:9000. Default: AWS."),
    }


def _port() -> Schema:
    return _object(
        {
            "Name": _name("What the port is for."),
            "Static": _integer(
                0,
                network.PORT_MAX,
                "Of the device, the same wherever it runs; 0: one that each device chooses at each "
                "start. Default: 0.",
            ),
            "Target": _integer(1, network.PORT_MAX, "Of the container. Default: the same."),
        },
        "A port.",
        required=["Name"],
    )


def _engine(engines: Sequence[str]) -> Schema:
    argument = _word(engine.ARGUMENT_BYTES_MAX, "An argument.")
    process = _object(
        {
            "Command": {
                "description": "Program and arguments; a string is a line for /bin/sh.",
                "anyOf": [
                    {
                        **_array(argument, engine.COMMAND_MAX, "Program and arguments."),
                        "type": "array",
                        "minItems": 1,
                    },
                    {**_text(engine.ARGUMENT_BYTES_MAX, "A line for the shell."), "minLength": 1},
                ],
            },
            "WorkingDirectory": _path("Where it starts. Default: the task's own directory."),
        },
        "Parameters of the process engine.",
        required=["Command"],
    )
    return {
        **_object(
            {
                "Type": _enum(tuple(engines), "What runs the task."),
                "Params": {"type": ["object", "null"], "description": "As the engine needs them."},
            },
            "What runs the task.",
            required=["Type"],
        ),
        "if": {"properties": {"Type": {"const": "process"}}},
        "then": {"properties": {"Params": process}, "required": ["Params"]},
        "else": {
            "if": {"properties": {"Type": {"const": "docker"}}},
            "then": {"properties": {"Params": _container()}, "required": ["Params"]},
            "else": {
                "if": {"properties": {"Type": {"const": "wasm"}}},
                "then": {"properties": {"Params": _wasm()}, "required": ["Params"]},
            },
        },
    }


def _container() -> Schema:
    argument = _word(container.ARGUMENT_BYTES_MAX, "An argument.")
    variable = _text(container.VARIABLE_BYTES_MAX, "NAME=value.")
    user: Schema = {
        "type": ["string", "integer"],
        "description": "Name or id, :group. As the image.",
    }
    return _object(
        {
            "Image": _text(container.IMAGE_BYTES_MAX, "The image, e.g. busybox:1.37.0."),
            "Entrypoint": _array(argument, container.ARGUMENTS_MAX, "Default: the image's own."),
            "Parameters": _array(argument, container.ARGUMENTS_MAX, "What the entrypoint is told."),
            "EnvironmentVariables": _array(
                variable, container.VARIABLES_MAX, "NAME=value, beside the task's Env and over it."
            ),
            "WorkingDirectory": _text(container.DIRECTORY_BYTES_MAX, "Default: the image's own."),
            "User": user,
            "Pull": _enum(container.PULLS, "When the image is fetched. Default: missing."),
            "Devices": _array(
                _text(128, "E.g. /dev/i2c-1."),
                container.DEVICES_MAX,
                "Device files, where the device's owner allows them.",
            ),
            "Capabilities": _array(
                _text(64, "E.g. NET_ADMIN."),
                container.CAPABILITIES_MAX,
                "Of capabilities(7), where the device's owner allows them; all others are dropped.",
            ),
        },
        "Parameters of the docker engine.",
        required=["Image"],
    )


def _wasm() -> Schema:
    argument = _word(container.ARGUMENT_BYTES_MAX, "An argument.")
    variable = _text(container.VARIABLE_BYTES_MAX, "NAME=value.")
    value = _word(container.VARIABLE_BYTES_MAX, "A value; quote true or 1.0.")
    variables: Schema = {
        "description": "NAME=value in a list or mapping, beside the task's Env and over it.",
        "anyOf": [
            _array(variable, container.VARIABLES_MAX, "NAME=value."),
            {
                "type": "object",
                "additionalProperties": value,
                "maxProperties": container.VARIABLES_MAX,
            },
        ],
    }
    return _object(
        {
            "EntryModule": _module("The module to run"),
            "ImportModules": _array(
                _module("A module to link with it"),
                inputs.INPUTS_MAX,
                "Modules it imports from, by their Alias, file name or path; in order.",
            ),
            "EntryPoint": _text(wasm.ENTRY_POINT_BYTES_MAX, "A function. Default: _start."),
            "Parameters": _array(argument, container.ARGUMENTS_MAX, "Its arguments."),
            "EnvironmentVariables": variables,
            "Fuel": _integer(
                0, wasm.FUEL_MAX, "About one for each instruction; 0: no bound. Default: 0."
            ),
        },
        "Parameters of the wasm engine.",
        required=["EntryModule"],
    )


def _topic() -> Schema:
    names = ", ".join(f"{{{name}}}" for name in publisher.PLACEHOLDERS)
    return _object(
        {
            "Broker": {
                "type": "string",
                "pattern": _whole(publisher.BROKER.pattern),
                "description": "One that the device has under this name, [mqtt.brokers.NAME].",
            },
            "Topic": _text(publisher.TOPIC_BYTES_MAX, f"With {names}. Default: the shoal's own."),
            "QoS": _integer(0, publisher.QOS_MAX, "1: at least once. Default: 1."),
            "Retain": _flag("The broker keeps the last one. Default: true on the shoal's own."),
            "Format": _enum(publisher.FORMATS, "Default: json, of lines raw."),
            "Lines": _flag("A message for each line of stdout as it is printed. Default: false."),
        },
        "Parameters of mqtt.",
        required=["Broker"],
    )


def _publisher() -> Schema:
    none: Schema = {"type": ["object", "null"], "maxProperties": 0}
    return {
        **_object(
            {
                "Type": _enum(
                    ("", *publisher.PUBLISHERS),
                    "local: kept by the peer that ran it, as all are; mqtt: sent to a broker, too; "
                    "s3: brought to a bucket, too.",
                ),
                "Params": {"type": ["object", "null"], "description": "As the type needs them."},
            },
            "Where results go. Default: local.",
        ),
        **_for_type("mqtt", _topic(), _for_type("s3", _bucket(), {"properties": {"Params": none}})),
    }


def _for_type(name: str, params: Schema, others: Schema) -> Schema:
    return {
        "if": {"properties": {"Type": {"const": name}}, "required": ["Type"]},
        "then": {"properties": {"Params": params}, "required": ["Params"]},
        "else": others,
    }


def _module(description: str) -> Schema:
    text = f"{description}: the Target or Alias of an input source, or a source of its own."
    return {"description": text, "anyOf": [_path(text), _input("Source")]}


def _input(*required: str) -> Schema:
    size = _quantity(_SIZE, f"The archive's size; {SIZE_ALLOWED}")
    digest: Schema = {**_text(64, "SHA-256 in hex."), "pattern": "^[0-9a-fA-F]{64}$"}
    directory = _object(
        {
            "SourcePath": _text(sources.DIRECTORY_BYTES_MAX, "A path of the device."),
            "ReadWrite": {"type": ["boolean", "null"], "description": "Default: false."},
            "CreateAs": _enum((*sources.CREATIONS, ""), "The path has to be there."),
        },
        "",
        ["SourcePath"],
    )
    params: dict[str, Schema] = {
        "inline": _object({"URL": _text(sources.URL_BYTES_MAX, "data:...")}, "", ["URL"]),
        "archive": _object({"Digest": digest, "Size": size}, "", ["Digest", "Size"]),
        "peer": _object({"Digest": digest, "Size": size}, "", ["Digest", "Size"]),
        "local": directory,
        "localdirectory": directory,
        "urldownload": _object(
            {"URL": _text(sources.WEB_URL_BYTES_MAX, "http(s)://..."), "SHA256": digest},
            "",
            ["URL"],
        ),
        "s3": _object(
            {
                **_s3_place(),
                "Key": _text(s3.KEY_BYTES_MAX + 1, "Of one object, or with / or * at its end."),
                "Filter": _text(s3.FILTER_BYTES_MAX, "A regular expression on the rest of keys."),
                "VersionID": _text(s3.VERSION_BYTES_MAX, "Of one object."),
                "ChecksumSHA256": _text(128, "Of one object, in base64 or hex."),
            },
            "",
            ["Bucket"],
        ),
    }
    source: Schema = {
        **_object(
            {
                "Type": _enum(
                    sources.SOURCES,
                    "inline: in the job; archive: shipped beside it; peer: kept of an earlier job; "
                    "local, or localDirectory: of the device; urlDownload: of the web; "
                    "s3: of a bucket.",
                ),
                "Params": {"type": "object", "description": "As the source needs them."},
            },
            "Where it comes from.",
            required=["Type", "Params"],
        ),
        "allOf": [
            {
                "if": {"properties": {"Type": {"const": kind}}},
                "then": {"properties": {"Params": each}},
            }
            for kind, each in params.items()
        ],
    }
    return _object(
        {
            "Source": source,
            "Target": _path("Where the task finds it."),
            "Alias": _name("A name for engines that link by name."),
        },
        "Something put beside the task before it starts.",
        required=[*required],
    )


def _resources() -> Schema:
    base = resources.RESOURCES_DEFAULT.to_plain()
    return _object(
        {
            "CPU": _quantity(_CPU, f"Cpu; {CPU_ALLOWED}. Default: {base['CPU']}."),
            "Memory": _quantity(_SIZE, f"Memory; {SIZE_ALLOWED}. Default: 64Mi."),
            "Disk": _quantity(_SIZE, f"Disk; {SIZE_ALLOWED}. Default: 0."),
            "GPU": _quantity(r"^\s*[0-9]+\s*$", f"Whole devices; {COUNT_ALLOWED}. Default: 0."),
        },
        "What is set aside for each slot.",
    )


# ---- forms. Optional values may be null, as a key with nothing after it is in YAML -------------


def _object(properties: Schema, description: str = "", required: Sequence[str] = ()) -> Schema:
    names: list[Plain] = list(required)
    kinds: list[Plain] = ["object"] if required else ["object", "null"]
    tree: Schema = {
        "type": kinds,
        "additionalProperties": False,
        "properties": properties,
    }
    if description:
        tree["description"] = description
    return {**tree, "required": names} if names else tree


def _array(items: Schema, items_max: int, description: str) -> Schema:
    tree: Schema = {"items": items, "maxItems": items_max, "description": description}
    return {"type": ["array", "null"], **tree}


def _words(items_max: int, length_max: int, description: str) -> Schema:
    return {
        "type": ["object", "null"],
        "description": description,
        "additionalProperties": _word(length_max, "A value; quote true or 1.0."),
        "propertyNames": {"pattern": _whole(KEY.pattern)},
        "maxProperties": items_max,
    }


def _text(length_max: int, description: str) -> Schema:
    return {"type": "string", "maxLength": length_max, "description": description}


def _word(length_max: int, description: str) -> Schema:
    kinds: list[Plain] = ["string", "integer"]
    return {**_text(length_max, description), "type": kinds}


def _name(description: str) -> Schema:
    text = f"{description} {NAME_ALLOWED.capitalize()}."
    return {"type": "string", "pattern": _whole(NAME.pattern), "description": text}


def _path(description: str) -> Schema:
    return {**_text(PATH_BYTES_MAX, description), "minLength": 1}


def _flag(description: str) -> Schema:
    return {"type": ["boolean", "null"], "description": description}


def _enum(values: Sequence[str], description: str) -> Schema:
    words: list[Plain] = [str(value) for value in values]
    return {"enum": words, "description": description}


def _integer(low: int, high: int, description: str) -> Schema:
    kinds: list[Plain] = ["integer", "null"]
    return {"type": kinds, "minimum": low, "maximum": high, "description": description}


def _quantity(pattern: str, description: str) -> Schema:
    kinds: list[Plain] = ["number", "string", "null"]
    return {"type": kinds, "minimum": 0, "pattern": pattern, "description": description}


def _duration(description: str) -> Schema:
    tree = _quantity(_DURATION, f"{description} {DURATION_ALLOWED.capitalize()}.")
    return {**tree, "maximum": INT_MAX}


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"

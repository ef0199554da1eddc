"""A result as a message: what an MQTT publisher says of an execution's end, or of a line."""

from __future__ import annotations

import json
from typing import Final

from protocol.bounds import TAIL_BYTES_MAX
from protocol.ids import JobId
from protocol.outbox import Message
from protocol.publisher import MqttPublisher
from protocol.records import Result, Verdict
from protocol.tree import Plain
from protocol.wire import dumps

OUTPUT_BYTES_MAX: Final = 64 * 1024  # of stdout in one message: a broker on a Pi takes that
CONTENT_TYPES: Final = {"json": "application/json", "cbor": "application/cbor", "raw": ""}
OUTCOMES: Final = {
    Verdict.SUCCESS: "success",
    Verdict.FAILURE: "failure",
    Verdict.FAULT: "fault",
    Verdict.STOPPED: "stopped",
}


def result_message(
    publisher: MqttPublisher,
    result: Result,
    execution: str,
    name: str,
    topic: str,
    stdout: bytes,
    stdout_bytes: int,
    expiry_s: int,
) -> Message:
    """`stdout` may be only the beginning of the `stdout_bytes` there were, which is said."""
    cut = stdout[:OUTPUT_BYTES_MAX]
    truncated = max(stdout_bytes, len(stdout)) > len(cut)
    outcome = OUTCOMES[Verdict(result.verdict)]
    about = about_result(result, execution, name, max(stdout_bytes, len(stdout)), truncated)
    properties = [("id", execution), ("outcome", outcome)]
    if truncated:
        properties.append(("truncated", "true"))
    return Message(
        id=execution,
        broker=publisher.broker,
        job=result.job,
        topic=topic,
        payload=_body(publisher.format, about, "stdout", cut),
        qos=publisher.qos,
        retain=publisher.retain,
        content_type=CONTENT_TYPES[publisher.format],
        expiry_s=expiry_s,
        properties=tuple(properties),
    )


def about_result(
    result: Result, execution: str, name: str, stdout_bytes: int | None, truncated: bool
) -> dict[str, object]:
    """What stands in a message beside the output; how long that was may not be known."""
    return {
        "id": execution,
        "job": result.job,
        "name": name,
        "slot": result.slot,
        "peer": result.executor,
        "execution": execution,
        "outcome": OUTCOMES[Verdict(result.verdict)],
        "exit_code": None if result.exit_code < 0 else result.exit_code,
        "reason": result.reason,
        "started_ms": result.started_ms,
        "ended_ms": result.ended_ms,
        "duration_ms": result.duration_ms,
        "stdout_bytes": stdout_bytes,
        "truncated": truncated,
        "archive": result.archive,
    }


def kept_output(stdout: bytes, stdout_bytes: int, tail: bytes) -> bytes:
    """What a result keeps of the output of a run that is to be answered: all of it, or its
    beginning, just TAIL_BYTES_MAX then; `tail` where its beginning is not known."""
    if 0 < stdout_bytes == len(stdout) < TAIL_BYTES_MAX:
        return stdout
    return stdout[:TAIL_BYTES_MAX] or tail


def clearing_message(broker: str, job: JobId, execution: str, topic: str) -> Message:
    """Takes a retained result back: an empty one in its place (MQTT 5, 3.3.1.3)."""
    return Message(
        id=f"{execution}:clear",
        broker=broker,
        job=job,
        topic=topic,
        payload=b"",
        retain=True,
        properties=(("id", f"{execution}:clear"),),
    )


def line_payload(form: str, about: dict[str, Plain], line: bytes) -> bytes:
    """One line of output; raw, it is what was printed and nothing else. `about` says whose it is,
    and begins with its id."""
    return _body(form, dict(about), "line", line)


def _body(form: str, about: dict[str, object], key: str, output: bytes) -> bytes:
    """In JSON what is no UTF-8 is replaced; CBOR has the bytes as they were."""
    if form == "raw":
        return output
    if form == "cbor":
        return dumps({**about, key: output})
    return json.dumps(
        {**about, key: output.decode("utf-8", "replace")}, ensure_ascii=False
    ).encode()

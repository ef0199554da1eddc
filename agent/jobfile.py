"""Job files: YAML or JSON text to a JobSpec, with the line of whatever is wrong.

Imports neither trio nor libp2p: the command line reads files before it talks to anybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from protocol.engine import ENGINES
from protocol.errors import JobSpecError
from protocol.job import OURS, SPEC_BYTES_MAX, JobSpec, JobType
from protocol.tree import Plain, shown

FILE_BYTES_MAX: Final = SPEC_BYTES_MAX
NODES_MAX: Final = 10_000
DEPTH_MAX: Final = 16  # twice what any job has

# YAML 1.2's core schema without its octal and hex forms and without leading zeros: a mode `0755`
# or a code `007` stays the string it is, and so do 1.1's `on`, `yes` and `22:22`.
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
# Of Go's templates what puts in one value: {{.name}}, a literal, a comment. As there, a `-` at
# either end, with white space on its inner side, takes away the white space on its outer one.
_SPACE: Final = " \t\r\n"
_ACTION: Final = re.compile(
    r"""
    \{\{ (?P<left> -[ \t\r\n] )?
    (?: /\* (?: (?!\*/) . )* \*/
      | [ \t\r\n]* (?: \.(?P<name> [^\W\d]\w* ) | "(?P<quoted> [^"\\\n]* )" | `(?P<raw> [^`]* )` )
        [ \t\r\n]*
    )
    (?P<right> [ \t\r\n]- )? \}\}
    """,
    re.VERBOSE | re.DOTALL,
)
_NULLS: Final = ("", "~", "null", "Null", "NULL")
_TRUE: Final = ("true", "True", "TRUE")
_FALSE: Final = ("false", "False", "FALSE")
# Two backslashes first, so that an escaped backslash before a `u` is not taken for an escape
_PAIR: Final = re.compile(
    r"\\\\|\\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})"
)


class JobFileError(JobSpecError):
    """A job file that cannot be used: `line 7, Tasks[0].Engine.Typ: unknown key, …`."""

    def __init__(self, line: int | None, path: str, message: str) -> None:
        super().__init__(path, message)
        self.line = line  # counted from 1; None where the file as a whole is meant
        place = ", ".join(part for part in (f"line {line}" if line else "", path) if part)
        self.args = (f"{place}: {message}" if place else message,)


def load_job(text: str | bytes, engines: Sequence[str] = ENGINES, name: str = "") -> JobSpec:
    """Read a job file; `name` is for one that has none. Raises JobFileError."""
    tree, lines = load_tree(text)
    if name and isinstance(tree, dict) and "name" not in map(str.lower, tree):
        tree["Name"] = name
    try:
        spec = JobSpec.from_plain(tree, engines)
        if spec.schedule is not None:
            from agent.cron import Calendar  # for these alone: the others start faster without it

            Calendar().next(spec.schedule, 0)
        if spec.fired is not None:
            raise JobSpecError("Fired", OURS)
        if spec.trigger is not None:
            from agent.mqtt.expressions import check_trigger  # likewise

            check_trigger(spec)
        _check_filters(spec)
        return spec
    except JobSpecError as error:
        raise JobFileError(_line_of(error.path, lines), error.path, error.message) from None


def _check_filters(spec: JobSpec) -> None:
    """Here, where they keep nobody waiting but who wrote them. Raises JobSpecError."""
    for at, item in enumerate(spec.task.input_sources):
        text = getattr(item.source, "filter", "")
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            path = f"Tasks[0].InputSources[{at}].Source.Params.Filter"
            raise JobSpecError(path, f"{text!r} is not a regular expression: {error}") from None


def filled(text: bytes, values: Mapping[str, str]) -> bytes:
    """A file whose blanks, `{{.NAME}}` as in Bacalhau's, have these values; every blank needs one,
    and every value a blank.

    Bacalhau takes every file for a template of Go's, without values too. What is more than a
    blank, a literal or a comment is refused: as text it would mean something else here.
    Raises JobFileError.
    """
    used: set[str] = set()
    decoded = _decoded(text)
    done: list[str] = []
    place, trimmed = 0, False
    while (start := decoded.find("{{", place)) >= 0:
        action = _ACTION.match(decoded, start)
        if action is None:
            raise _not_filled(decoded, start)
        before = decoded[place:start].lstrip(_SPACE if trimmed else "")
        done.append(before.rstrip(_SPACE if action["left"] else ""))
        if name := action["name"]:
            if name not in values:
                way = f"give it with -V {name}=VALUE, or leave it as it is with --no-template"
                line = decoded.count("\n", 0, start) + 1
                raise JobFileError(line, "", f"{action[0]} has no value; {way}")
            used.add(name)
            done.append(values[name])
        else:
            done.append(action["quoted"] or (action["raw"] or "").replace("\r", ""))
        place, trimmed = action.end(), action["right"] is not None
    done.append(decoded[place:].lstrip(_SPACE if trimmed else ""))
    if unused := sorted(set(values) - used):
        raise JobFileError(None, "", f"-V {unused[0]}: the file has no {{{{.{unused[0]}}}}}")
    return "".join(done).encode()


def _not_filled(text: str, start: int) -> JobFileError:
    """Of what begins with two braces, and is nothing that `filled` knows."""
    end = text.find("}}", start) + 2
    words = text[start:end] if end > 1 else text[start:].partition("\n")[0]
    way = "leave the file as it is with --no-template, or write {{`{{`}} where braces are meant"
    line = text.count("\n", 0, start) + 1
    return JobFileError(line, "", f"{shown(words)} is not a blank as {{{{.NAME}}}} is; {way}")


def load_tree(text: str | bytes) -> tuple[Plain, dict[str, int]]:
    """Read YAML or JSON to plain values, and the line on which each path stands."""
    decoded = _as_yaml(_decoded(text))
    loader = yaml.CSafeLoader(decoded)
    try:
        reader = _Reader(loader)
        return reader.document(), reader.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise JobFileError(line, "", f"not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise JobFileError(None, "", f"not YAML: {str(error).splitlines()[0]}") from None
    finally:
        loader.dispose()


EXAMPLES: Final = (*JobType, "docker", "wasm", "s3", "schedule", "template", "trigger")


def example(kind: str) -> str:
    """A commented job file of this kind, to start from. Raises ValueError for any other."""
    if kind not in EXAMPLES:
        raise ValueError(f"no example of {kind}; there are: {', '.join(EXAMPLES)}")
    return (Path(__file__).parent / "examples" / f"{kind}.yaml").read_text("utf-8")


class _Reader:
    """Values from the parser's events: no recursion in C, and aliases are seen as aliases."""

    def __init__(self, loader: yaml.CSafeLoader) -> None:
        self.loader = loader
        self.lines: dict[str, int] = {}
        self.nodes = 0

    def document(self) -> Plain:
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            raise JobFileError(None, "", "the file is empty")
        tree = self._value(self._next(), "", 0)
        self._next()  # the document's end
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            raise self._error(event, "", "a second document; allowed: one job in a file")
        return tree

    def _next(self) -> yaml.Event:
        event = self.loader.get_event()
        assert event is not None  # nothing is asked for after the stream's end
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise self._error(event, "", f"more than {NODES_MAX} values")
        return event

    def _value(self, event: yaml.Event, path: str, depth: int) -> Plain:
        self.lines.setdefault(path, _line(event))
        self._refuse_sharing(event, path)
        if depth > DEPTH_MAX:
            raise self._error(event, path, f"nested deeper than {DEPTH_MAX}")
        match event:
            case yaml.ScalarEvent():
                return _scalar(event)
            case yaml.SequenceStartEvent():
                return [
                    self._value(item, f"{path}[{i}]", depth + 1)
                    for i, item in enumerate(self._until(yaml.SequenceEndEvent))
                ]
            case yaml.MappingStartEvent():
                return self._mapping(path, depth)
            case _:
                raise AssertionError(f"an event libyaml does not give here: {event!r}")

    def _mapping(self, path: str, depth: int) -> Plain:
        tree: dict[str, Plain] = {}
        for event in self._until(yaml.MappingEndEvent):
            self._refuse_sharing(event, path)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, path, "a key has to be a plain word")
            key: str = event.value
            at = f"{path}.{key}" if path else key
            if key in tree:
                raise self._error(event, at, "duplicate key")
            self.lines.setdefault(at, _line(event))
            tree[key] = self._value(self._next(), at, depth + 1)
        return tree

    def _until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        while not isinstance(event := self._next(), end):
            yield event

    def _refuse_sharing(self, event: yaml.Event, path: str) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, path, "aliases are not used in job files; repeat the value")
        if getattr(event, "anchor", None) is not None:
            raise self._error(event, path, "anchors are not used in job files; leave it out")
        if getattr(event, "tag", None) is not None:
            raise self._error(event, path, "tags are not used in job files; quote a string instead")

    def _error(self, event: yaml.Event, path: str, message: str) -> JobFileError:
        return JobFileError(_line(event), path, message)


def _decoded(text: str | bytes) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > FILE_BYTES_MAX:
        raise JobFileError(None, "", f"{size} bytes; allowed: {FILE_BYTES_MAX}; ship files instead")
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        decoded.encode()
    except UnicodeError:
        raise JobFileError(None, "", "not UTF-8") from None
    return decoded


def _as_yaml(text: str) -> str:
    """Make YAML of JSON, line for line, where it is not YAML already.

    libyaml takes neither tabs between values nor characters written as two surrogate escapes.
    """
    if not text.lstrip().startswith("{") or ("\t" not in text and "\\u" not in text):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _PAIR.sub(_unescaped, text.replace("\t", " "))  # JSON has no tabs within strings


def _unescaped(match: re.Match[str]) -> str:
    if match["high"] is None:
        return match[0]
    pair = bytes.fromhex(match["high"] + match["low"])
    return pair.decode("utf-16-be")


def _scalar(event: yaml.ScalarEvent) -> Plain:
    text: str = event.value
    if not event.implicit[0]:  # quoted, or a block: a string whatever it looks like
        return text
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    assert mark is not None, event  # the parser gives every event its place
    return mark.line + 1


def _line_of(path: str, lines: dict[str, int]) -> int:
    """The line of a path, or of the nearest thing around it that is in the file."""
    while path not in lines:
        cut = max(path.rfind("."), path.rfind("["), 0)
        path = path[:cut]
    return lines[path]

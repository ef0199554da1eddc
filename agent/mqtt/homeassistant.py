"""Home Assistant: what it is told of devices, templates and daemons, so that it shows them.

One message a device, in the form that its MQTT integration calls device-based discovery (Home
Assistant 2024.12 and later; its documentation of that integration, and the schemas that it checks
them by in components/mqtt). Keys are its abbreviations. Nothing here says when that is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.control.backend import View
from agent.mqtt.retained import Kept

COMPONENTS_MAX: Final = 100  # of one device: a page that nobody reads to its end
BYTES_MAX: Final = 64 * 1024  # of one message
# Components that are no more, of which it is still told: at once may go all that one message shows,
# and all that another device's did; they are 60 bytes each.
GONE_MAX: Final = 3 * COMPONENTS_MAX
STATUS_MAX: Final = 8  # peers by whose status the shoal's own device is there or not
ONLINE: Final = b"online"
JSON: Final = "application/json"
PLATFORMS: Final = ("sensor", "binary_sensor", "event", "switch", "button")
KEY: Final = re.compile(r"[a-z0-9_]{1,80}")  # of a component

Component = dict[str, Any]

# What a device measures: key, name, the figure in its state, template, unit, class, icon, digits.
_MEASURED: Final = (
    ("load", "Load", "load_permille", "{0} / 10", "%", "", "mdi:cpu-64-bit", 0),
    ("memory", "Memory free", "memory_free_bytes", "{0} / 1048576", "MiB", "data_size", "", 0),
    ("disk", "Disk free", "disk_free_bytes", "{0} / 1073741824", "GiB", "data_size", "", 1),
    ("temperature", "Temperature", "temperature_mc", "{0} / 1000", "°C", "temperature", "", 1),
    ("battery", "Battery", "battery_percent", "{0}", "%", "battery", "", 0),
)
# How jobs end, as their state says.
ENDS: Final = ("completed", "failed", "stopped")


@dataclass(frozen=True, slots=True)
class About:
    """Of whom the messages come."""

    peer: str
    shoal: str  # its id
    shoal_name: str
    version: str
    root: str  # of the shoal's own topics


@dataclass(frozen=True, slots=True)
class Button:
    """A template that PRESS on a topic runs."""

    id: str
    word: str
    topic: str


@dataclass(frozen=True, slots=True)
class Switch:
    """A daemon; without a topic for commands it is only shown."""

    id: str
    word: str
    state_topic: str
    command_topic: str = ""


def peer_topic(prefix: str, peer: str) -> str:
    return f"{prefix}/device/shoal_{peer}/config"


def shoal_topic(prefix: str, shoal: str) -> str:
    return f"{prefix}/device/shoal_{shoal}/config"


def peer_device(about: About, state: View, measured: View, seen: Iterable[str]) -> Component:
    """A device of the shoal. `seen` are the figures that it has told of at any time."""
    known = list(seen)
    components: dict[str, Component] = {}
    for key, name, figure, template, unit, kind, icon, digits in _MEASURED:
        if figure in known:
            value = template.format(f"value_json.{figure}")
            there = f"{{{{ {value} if value_json.{figure} != -1 else None }}}}"
            components[key] = {
                "p": "sensor",
                "name": name,
                "val_tpl": there,
                "unit_of_meas": unit,
                "stat_cla": "measurement",
                "sug_dsp_prc": digits,
                **({"dev_cla": kind} if kind else {}),
                **({"ic": icon} if icon else {}),
            }
    components["running"] = {
        "p": "sensor",
        "name": "Running",
        "val_tpl": "{{ value_json.running }}",
        "stat_cla": "measurement",
        "ic": "mdi:run",
    }
    components["problem"] = {
        "p": "binary_sensor",
        "name": "Problem",
        "dev_cla": "problem",
        "val_tpl": "{{ 'ON' if value_json.problems else 'OFF' }}",
        "json_attr_t": f"{about.root}/peer/{about.peer}/state",
        "json_attr_tpl": "{{ {'problems': value_json.problems} | tojson }}",
    }
    device = {
        "ids": [f"shoal_{about.peer}"],
        "name": str(state["name"]),
        "mf": "Shoal",
        "mdl": str(state["labels"].get("model", "device")),
        "sw": about.version,
    }
    return {
        "dev": device,
        "o": _origin(about),
        "avty": [_availability(about.root, about.peer)],
        "stat_t": f"{about.root}/peer/{about.peer}/state",
        "cmps": _named(components, f"shoal_{about.peer}"),
    }


def figures_in(note: bytes) -> list[str]:
    """Those that a device has told of, by the note of its message."""
    named = _read(note)
    return [figure for key, _, figure, *_ in _MEASURED if key in named]


def shoal_device(
    about: About, peers: Sequence[str], buttons: Sequence[Button], switches: Sequence[Switch]
) -> Component:
    """What is the shoal's and no device's: there as long as one of these peers is."""
    known = "', '".join(ENDS)
    event = "{'event_type': value_json.state, 'name': value_json.name, 'job': value_json.job}"
    components: dict[str, Component] = {
        "jobs": {
            "p": "event",
            "name": "Job ended",
            "evt_typ": list(ENDS),
            "stat_t": f"{about.root}/job/+/state",
            "val_tpl": (
                f"{{% if value_json.state in ['{known}'] %}}{{{{ {event} | tojson }}}}{{% endif %}}"
            ),
        }
    }
    components |= {f"switch_{each.id}": _switch(each) for each in switches if each.command_topic}
    components |= {f"button_{each.id}": _button(each) for each in buttons}
    # Last, since there is not room for everything.
    components |= {
        f"daemon_{each.id}": _sensor(each) for each in switches if not each.command_topic
    }
    device = {"ids": [f"shoal_{about.shoal}"], "name": f"Shoal {about.shoal_name}", "mf": "Shoal"}
    return {
        "dev": {**device, "mdl": "shoal", "sw": about.version},
        "o": _origin(about),
        "avty": [_availability(about.root, peer) for peer in peers[:STATUS_MAX]],
        "avty_mode": "any",
        "cmps": _named(components, f"shoal_{about.shoal}"),
    }


def _switch(switch: Switch) -> Component:
    topics = {"stat_t": switch.state_topic, "cmd_t": switch.command_topic}
    return {"p": "switch", "name": switch.word, **topics}


def _sensor(switch: Switch) -> Component:
    shown = {"dev_cla": "running", "stat_t": switch.state_topic}
    return {"p": "binary_sensor", "name": switch.word, **shown}


def _button(button: Button) -> Component:
    return {"p": "button", "name": f"Run {button.word}", "cmd_t": button.topic}


def _origin(about: About) -> Component:
    return {"name": "Shoal", "sw": about.version}


def _availability(root: str, peer: str) -> Component:
    return {"t": f"{root}/peer/{peer}/status"}


def _named(components: Mapping[str, Component], device: str) -> dict[str, Component]:
    """With ids that stay the same over restarts, and are nobody else's."""
    return {key: {**each, "uniq_id": f"{device}_{key}"} for key, each in components.items()}


# ---- as a message -------------------------------------------------------------------------------


def message_of(device: Component, note: bytes, stood: bytes = b"") -> tuple[Kept, int]:
    """The message, and how many components it has no room for.

    `note` is of the one before: Home Assistant takes a component away when it is told of it with
    its platform alone, and not when it hears of it no more. `stood` is the message that another
    device had there, which knew of others.
    """
    noted = _read(note)
    known = {key: each for key, each in _named_in(stood).items() if key not in noted} | noted
    components: dict[str, Component] = device["cmps"]
    most = min(len(components), COMPONENTS_MAX)
    while True:
        shown = dict(list(components.items())[:most])
        before = {key: platform for key, platform in known.items() if key not in shown}
        gone = dict(list(before.items())[-GONE_MAX:])
        platforms = {**gone, **{key: each["p"] for key, each in shown.items()}}
        cmps = {**shown, **{key: {"p": platform} for key, platform in gone.items()}}
        payload = _json({**device, "cmps": cmps})
        if len(payload) <= BYTES_MAX or not most:
            break
        most -= max(1, most // 10)
    kept = Kept(payload, JSON, note=_json(platforms), guarded=True)
    return kept, len(components) - most


def _read(note: bytes) -> dict[str, str]:
    try:
        value = json.loads(note) if note else {}
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _named_in(message: bytes) -> dict[str, str]:
    """The components of a message with their platforms, as far as it is one of these; those that
    it told were gone come first, as in a note."""
    try:
        told = json.loads(message) if message else {}
    except (ValueError, RecursionError):
        return {}
    components = told.get("cmps") if isinstance(told, dict) else None
    if not isinstance(components, dict):
        return {}
    named = {str(k): v for k, v in components.items() if isinstance(v, dict)}
    in_order = sorted(named.items(), key=lambda each: len(each[1]) > 1)
    found = {key: each.get("p") for key, each in in_order}
    return {k: str(p) for k, p in found.items() if p in PLATFORMS and KEY.fullmatch(k)}


def _json(value: Component) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

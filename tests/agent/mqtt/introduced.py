"""Messages for Home Assistant as a test has them, and what is known of how it reads them.

Facts of Home Assistant 2025.4.4, from components/mqtt: abbreviations.py, schemas.py, sensor.py,
binary_sensor.py, switch.py, button.py, event.py, and of components/sensor/const.py. Only of what is
used here; tests/homeassistant compares them with Home Assistant itself.
"""

from __future__ import annotations

import json
from typing import Any, Final

from agent.mqtt.homeassistant import (
    About,
    Button,
    Switch,
    message_of,
    peer_device,
    shoal_device,
)

ABBREVIATIONS: Final = {
    "avty": "availability",
    "avty_mode": "availability_mode",
    "cmd_t": "command_topic",
    "cmps": "components",
    "dev": "device",
    "dev_cla": "device_class",
    "evt_typ": "event_types",
    "ic": "icon",
    "json_attr_t": "json_attributes_topic",
    "json_attr_tpl": "json_attributes_template",
    "o": "origin",
    "p": "platform",
    "stat_cla": "state_class",
    "stat_t": "state_topic",
    "sug_dsp_prc": "suggested_display_precision",
    "t": "topic",
    "uniq_id": "unique_id",
    "unit_of_meas": "unit_of_measurement",
    "val_tpl": "value_template",
}
DEVICE: Final = {"ids": "identifiers", "mf": "manufacturer", "mdl": "model", "sw": "sw_version"}
ORIGIN: Final = {"sw": "sw_version"}
WHOLE: Final = {"name"}  # keys that have no abbreviation

# Of a device's message, and of each platform: what has to be there, and what may be. What is shared
# by all components may stand in the device's message: `state_topic` and availability.
MESSAGE: Final = ({"device", "origin", "components"}, {"availability", "availability_mode"})
COMMON: Final = {
    "platform", "unique_id", "name", "icon", "json_attributes_topic", "json_attributes_template",
}  # fmt: skip
PLATFORMS: Final[dict[str, tuple[set[str], set[str]]]] = {
    "sensor": (
        {"state_topic"},
        {
            "value_template", "unit_of_measurement", "device_class", "state_class",
            "suggested_display_precision",
        },
    ),
    "binary_sensor": ({"state_topic"}, {"value_template", "device_class"}),
    "switch": ({"command_topic"}, {"state_topic"}),
    "button": ({"command_topic"}, set()),
    "event": ({"state_topic", "event_types"}, {"value_template"}),
}  # fmt: skip
# Units of a sensor by its class; without one, any.
UNITS: Final = {"data_size": {"MiB", "GiB"}, "temperature": {"°C"}, "battery": {"%"}}
BINARY_CLASSES: Final = {"problem", "running"}
STATE_CLASSES: Final = {"measurement"}
PAYLOADS: Final = {"switch": ("ON", "OFF"), "button": ("PRESS",)}  # where a message names no others
AVAILABLE: Final = ("online", "offline")

ABOUT: Final = About("12D3peer", "shoalid", "lab", "0.1", "shoal/lab")
STATE: Final[dict[str, Any]] = {"name": "porch", "labels": {"model": "Raspberry Pi 4"}}
MEASURED: Final[dict[str, Any]] = {
    "load_permille": 250,
    "memory_free_bytes": 512 * 1024**2,
    "disk_free_bytes": 3 * 1024**3 // 2,
    "temperature_mc": 48_200,
    "battery_percent": 80,
}
SWITCHES: Final = (
    Switch("d1", "pump", "shoal/lab/daemon/pump/state", "shoal/lab/daemon/pump/set"),
    Switch("d2", "secret", "shoal/lab/daemon/secret/state"),
)
BUTTONS: Final = (Button("t1", "tidy", "shoal/lab/trigger/tidy"),)


def peer_payload(note: bytes = b"", **state: Any) -> bytes:
    device = peer_device(ABOUT, {**STATE, **state}, MEASURED, MEASURED)
    return message_of(device, note)[0].payload


def shoal_payload(
    note: bytes = b"",
    buttons: tuple[Button, ...] = BUTTONS,
    switches: tuple[Switch, ...] = SWITCHES,
    peers: tuple[str, ...] = ("12D3peer", "12D3other"),
) -> bytes:
    return message_of(shoal_device(ABOUT, peers, buttons, switches), note)[0].payload


def wrong_with(payload: bytes) -> list[str]:
    """What breaks the facts above."""
    message = _whole(json.loads(payload), ABBREVIATIONS)
    wrong = _keys("message", message, MESSAGE[0], MESSAGE[1] | {"state_topic"})
    wrong += _keys(
        "device", _whole(message["device"], DEVICE), {"identifiers", "name"}, {*DEVICE.values()}
    )
    wrong += _keys("origin", _whole(message["origin"], ORIGIN), {"name"}, {*ORIGIN.values()})
    for key, given in message["components"].items():
        component = _whole(given, ABBREVIATIONS)
        platform = component.get("platform", "")
        if platform not in PLATFORMS:
            wrong.append(f"{key}: platform {platform}")
        elif len(component) > 1:
            needed, may = PLATFORMS[platform]
            shared = (
                {"state_topic": ""} if "state_topic" in message and platform == "sensor" else {}
            )
            if platform == "binary_sensor" and "state_topic" in message:
                shared = {"state_topic": ""}
            wrong += _keys(key, {**shared, **component}, {*needed, "unique_id"}, may | COMMON)
            wrong += _values(key, platform, component)
    return wrong


def _whole(given: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key if key in WHOLE else f"?{key}"): each for key, each in given.items()}


def _keys(where: str, given: dict[str, Any], needed: set[str], may: set[str]) -> list[str]:
    missing = [f"{where}: no {key}" for key in sorted(needed - given.keys())]
    return missing + [f"{where}: {key}" for key in sorted(given.keys() - needed - may)]


def _values(key: str, platform: str, given: dict[str, Any]) -> list[str]:
    kind, unit = given.get("device_class"), given.get("unit_of_measurement")
    wrong = []
    if platform == "sensor" and kind is not None and unit not in UNITS.get(kind, set()):
        wrong.append(f"{key}: {kind} in {unit}")
    if platform == "binary_sensor" and kind not in (None, *BINARY_CLASSES):
        wrong.append(f"{key}: class {kind}")
    if given.get("state_class", "measurement") not in STATE_CLASSES:
        wrong.append(f"{key}: state class {given['state_class']}")
    return wrong

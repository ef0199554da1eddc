"""A real Home Assistant with nothing but its MQTT integration, told by lines what to do.

Run by the Python that scripts/setup --homeassistant makes; the tests' own has none of it:

    .venv-homeassistant/bin/python tests/homeassistant/hub.py BROKER-PORT HTTP-PORT DIRECTORY

Each line of standard input is a JSON object, each answered by one:

    {"do": "states"}                       what it shows: entity -> [state, attributes]
    {"do": "call", "service": "switch.turn_off", "entity": "switch.pump"}
    {"do": "check", "topic": ..., "payload": ...}   what its schemas say of a discovery message

Answers have `complaints`, too: what Home Assistant itself has warned of since the last one.
"""

import asyncio
import importlib
import json
import logging
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import voluptuous
from homeassistant import auth, bootstrap, config_entries, core, loader
from homeassistant.components.mqtt import abbreviations, discovery, schemas
from homeassistant.setup import async_setup_component


class Complaints(logging.Handler):
    """What its integrations warn of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("homeassistant.components"):
            self.heard.append(f"{record.name}: {record.getMessage()}")


async def started(port: int, http_port: int, directory: str) -> core.HomeAssistant:
    """As its own bootstrap does it, without what a person would look at."""
    hass = core.HomeAssistant(directory)
    hass.config.skip_pip = True
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    loader.async_setup(hass)
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    await async_setup_component(hass, "homeassistant", {})
    http = {"server_host": "127.0.0.1", "server_port": http_port}
    assert await async_setup_component(hass, "http", {"http": http})
    entry = config_entries.ConfigEntry(
        version=1,
        minor_version=2,
        domain="mqtt",
        title="a test's",
        data={"broker": "127.0.0.1", "port": port},
        options={},
        source="user",
        unique_id=None,
        discovery_keys=MappingProxyType({}),
        subentries_data=None,
    )
    await hass.config_entries.async_add(entry)
    await hass.async_start()
    assert entry.state is config_entries.ConfigEntryState.LOADED, entry.state
    return hass


def states(hass: core.HomeAssistant) -> dict[str, Any]:
    return {each.entity_id: [each.state, dict(each.attributes)] for each in hass.states.async_all()}


async def call(hass: core.HomeAssistant, service: str, entity: str) -> None:
    domain, _, name = service.partition(".")
    await hass.services.async_call(domain, name, {"entity_id": entity}, blocking=True)


def check(topic: str, payload: str) -> list[str]:
    """What is wrong with a device's message, by the very schemas that discovery checks it by; with
    those for files, which refuse a key that they do not know, instead of leaving it out."""
    if not discovery.TOPIC_MATCHER.match(topic.partition("/")[2]):
        return [f"{topic} is no topic for discovery"]
    message = discovery.MQTTDiscoveryPayload(json.loads(payload))
    discovery._replace_all_abbreviations(message)
    try:
        schemas.DEVICE_DISCOVERY_SCHEMA(message)
    except voluptuous.Invalid as error:
        return [str(error)]
    wrong = []
    for key, component in message["components"].items():
        given = discovery.MQTTDiscoveryPayload(component)
        platform = given.pop("platform")
        if not given:  # one that is taken away
            continue
        discovery._merge_common_device_options(given, message)
        module = importlib.import_module(f"homeassistant.components.mqtt.{platform}")
        try:
            module.PLATFORM_SCHEMA_MODERN(dict(given))
        except voluptuous.Invalid as error:
            wrong.append(f"{key}: {error}")
    return wrong


def facts() -> dict[str, Any]:
    """What a reference of ours is compared with."""
    return {
        "abbreviations": abbreviations.ABBREVIATIONS,
        "device": abbreviations.DEVICE_ABBREVIATIONS,
        "origin": abbreviations.ORIGIN_ABBREVIATIONS,
    }


async def main() -> None:
    complaints = Complaints()
    logging.basicConfig(level=logging.WARNING, handlers=[complaints])
    Path(sys.argv[3], "configuration.yaml").touch()  # noqa: ASYNC240 -- nothing else runs yet
    hass = await started(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    print(json.dumps({"complaints": complaints.heard}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked, answer = json.loads(line), {}
        match asked["do"]:
            case "states":
                answer = {"states": states(hass)}
            case "call":
                await call(hass, asked["service"], asked["entity"])
            case "check":
                answer = {"wrong": check(asked["topic"], asked["payload"])}
            case "facts":
                answer = facts()
        heard, complaints.heard = complaints.heard, []
        print(json.dumps({**answer, "complaints": heard}, default=str), flush=True)
    await hass.async_stop()


asyncio.run(main())

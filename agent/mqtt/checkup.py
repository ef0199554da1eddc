"""Checkup: what may be wrong with what messages are to command, and with Home Assistant's view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.control.backend import View
from agent.devicechecks import check
from agent.mqtt.brokerfiles import file_checks
from agent.mqtt.overruns import FIX, text_of
from protocol.daemonviews import is_daemon
from protocol.listening import DAEMON, listed, word_of
from protocol.records import Desired

if TYPE_CHECKING:
    from agent.main import Agent


def mqtt_checks(agent: Agent) -> list[View]:
    """As the doctor's; nothing to say where neither is configured."""
    return [*_files(agent), *_overruns(agent), *_commands(agent), *_introductions(agent)]


def _files(agent: Agent) -> list[View]:
    now = agent.clock.now()
    now_ms = now.wall_ms if now.wall_trusted else None
    return [
        each
        for broker in agent.brokers
        for each in file_checks(broker.name, broker.settings, now_ms)
    ]


def _overruns(agent: Agent) -> list[View]:
    """Nothing to say where none is known to have dropped any."""
    dropped = {name: agent.bridge.overruns.dropped(name) for name in agent.brokers.names}
    return [
        check(f"queue {name}", None, text_of(count), FIX)
        for name, count in dropped.items()
        if count
    ]


def _commands(agent: Agent) -> list[View]:
    """An owner who lists a daemon wants it switched, which the device's certificate may forbid."""
    allow = agent.config.mqtt.allow
    if not agent.brokers.names or not any(word.startswith(DAEMON) for word in allow):
        return []
    steward = agent.driver.node.steward
    daemons = [held for held in steward.standing.jobs.values() if is_daemon(held)]
    wanted = [
        (word_of(held.namespace, held.name), steward.acts.why_not_change(held, "switch"))
        for held in daemons
        if held.desired is not Desired.DELETED
        and listed(allow, DAEMON + word_of(held.namespace, held.name))
    ]
    barred = [(word, why) for word, why in wanted if why]
    if barred:
        word, why = barred[0]
        text = f"messages switch {len(barred)} daemons not from here, as {word}: {why}"
        fix = "`shoal invite --role compute,submit,operate`, and join again; or list it elsewhere"
        return [check("switches", None, text, fix)]
    return [check("switches", True, f"messages may switch {len(wanted)} daemons from here")]


def _introductions(agent: Agent) -> list[View]:
    found, showing = [], agent.bridge.showing
    for broker in agent.brokers:
        if not broker.settings.home_assistant or not broker.connected:
            continue
        name, prefix = f"home assistant {broker.name}", broker.settings.home_assistant_prefix
        left_out = showing.left_out.get(broker.name, 0)
        if left_out:
            text = f"{left_out} templates and daemons are too many for Home Assistant to be shown"
            fix = "list fewer in [mqtt] allow; daemons that nobody lists come last"
            found.append(check(name, None, text, fix))
        elif topics := showing.introduced(broker):
            text = f"told at {prefix}/ of {len(topics)} devices by this one"
            found.append(check(name, True, text))
        else:
            found.append(check(name, None, f"nothing was told at {prefix}/ yet", "wait a moment"))
    return found

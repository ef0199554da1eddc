"""Peers as a person asks for them: described, drained, forgotten, and this one labelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from agent.client import THIS_DEVICE
from agent.conditions import Conditions
from agent.control.backend import RequestError, View
from agent.device import Device
from agent.driver import Driver, RequestFailed
from agent.labels import CONFIG, FOUND, INVITE, LIVE, OWN_MAX, problem
from protocol.events import ForgetRequested
from protocol.ids import PeerId

ANSWER_S: Final = 10.0
BYTES_MAX: Final = 8 * 1024  # of all labels a person set: an advert goes to everybody, whole
ID_CHARS_MIN: Final = 4
POLICY: Final = "accept."

_ELSEWHERE: Final = {
    CONFIG: "comes from the configuration: take it out there, or set another value over it",
    INVITE: "came with the invite: set another value over it",
    FOUND: "is found by the agent itself",
}


class Peers:
    """Looks peers up in the running node, and changes the conditions of this one."""

    def __init__(
        self,
        driver: Driver,
        device: Device,
        conditions: Conditions,
        settings: Mapping[str, View],
        redescribe: Callable[[], None],
        uptime_s: Callable[[], float],
    ) -> None:
        self._driver = driver
        self._device = device
        self._conditions = conditions
        self._settings = settings
        self._redescribe = redescribe
        self._uptime_s = uptime_s

    # ---- looking -----------------------------------------------------------------------------

    def all(self) -> list[View]:
        """Views of this peer first, then the others."""
        me, *others = cast(list[View], self._driver.node.views.peers(self._driver.clock.now()))
        return [{**me, "since_s": int(self._uptime_s())}, *others]

    def one(self, wanted: str) -> View:
        """By name, id, or either end of an id. Of this peer also its owner's policy, which is
        nobody else's business. Raises RequestError."""
        view = self._find(wanted)
        if not view["self"]:
            return view
        policy = {
            key.removeprefix(POLICY): entry["value"]
            for key, entry in self._settings.items()
            if key.startswith(POLICY)
        }
        return {**view, "policy": policy, "label_sources": self.labels()}

    def labels(self) -> list[View]:
        """Of this device, as {name, value, source}."""
        return [
            {"name": label.name, "value": label.value, "source": label.source}
            for label in self._device.labels().values()
        ]

    def _find(self, wanted: str) -> View:
        views = self.all()
        if wanted == THIS_DEVICE:
            return views[0]
        found = [view for view in views if wanted == view["id"]]
        found = found or [view for view in views if wanted == view["name"]]
        part = wanted.removeprefix("…")
        if not found and len(part) >= ID_CHARS_MIN:
            found = [v for v in views if v["id"].startswith(part) or v["id"].endswith(part)]
        if not found:
            raise RequestError(404, f"no peer {wanted!r} is known here; `shoal peers` lists them")
        if len(found) > 1:
            shown = ", ".join(f"{view['name']} …{view['id'][-8:]}" for view in found[:10])
            raise RequestError(409, f"{wanted!r} could be any of {shown}: give the end of the id")
        return found[0]

    # ---- changing ----------------------------------------------------------------------------

    async def label(self, given: Mapping[str, str], taken: Sequence[str]) -> list[View]:
        """Set and unset labels of this device, all or none of them; known to all in seconds."""
        if refusal := problem(given) or self._why_not_take(taken) or self._too_much(given, taken):
            raise RequestError(400, refusal)
        try:
            await self._conditions.change(given, taken)
        except ValueError as error:
            raise RequestError(400, str(error)) from None
        except OSError as error:
            raise _unsaved(error) from None
        self._redescribe()
        return self.labels()

    async def drain(self, wanted: str, draining: bool) -> View:
        view = self._find(wanted)
        if not view["self"]:
            off = "drain" if draining else "undrain"
            raise RequestError(
                400,
                f"a device is drained on itself: `shoal --host ssh://{view['name']} peer {off}`, "
                "or the same there without --host",
            )
        try:
            await self._conditions.drain(draining)
        except OSError as error:
            raise _unsaved(error) from None
        self._redescribe()
        running = len(self._driver.node.executor.bidder.used)
        return {"peer": view["id"], "name": view["name"], "draining": draining, "running": running}

    async def forget(self, wanted: str) -> View:
        view = self._find(wanted)
        if view["self"]:
            raise RequestError(400, "this device cannot forget itself")
        peer = PeerId(str(view["id"]))
        try:
            return await self._driver.ask(lambda number: ForgetRequested(number, peer), ANSWER_S)
        except RequestFailed as error:
            raise RequestError(403, str(error)) from None

    def _why_not_take(self, taken: Sequence[str]) -> str:
        for name in taken:
            if name in self._conditions.labels:
                continue
            label = self._device.labels().get(name)
            if label is None:
                return f"there is no label {name} on this device"
            return f"the label {name} {_ELSEWHERE[label.source]}"
        return ""

    def _too_much(self, given: Mapping[str, str], taken: Sequence[str]) -> str:
        """The others' adverts hold so much and no more."""
        labels = {
            label.name: label.value
            for label in self._device.labels().values()
            if label.source != FOUND and not (label.source == LIVE and label.name in taken)
        }
        labels |= given
        size = sum(len(text.encode()) for pair in labels.items() for text in pair)
        if len(labels) > OWN_MAX:
            return f"{len(labels)} labels beside those found; allowed: {OWN_MAX}"
        if size > BYTES_MAX:
            return f"the labels are {size} bytes in all; allowed: {BYTES_MAX}"
        return ""


def _unsaved(error: OSError) -> RequestError:
    return RequestError(507, f"it could not be saved: {error.strerror}")

"""Brokers by their names in the configuration: who publishes or subscribes comes here.

    broker = brokers.named("home")          # None where none of that name is configured
    subscription = broker.subscribe("sensors/+/door", 1, handler, session="collect")
    broker.publish(Outgoing("a/b", b"on"), done)

Everything belongs to the loop's thread. A handler is called there with each message, and calls the
message's `ack` once what follows from it is durable. Handlers and `done` return at once; what they
raise is logged and goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Final

import trio

from agent.mqtt.client import Will
from agent.mqtt.denied import Denied
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import HELD, LOST, concerns_topic, tell
from agent.mqtt.session import Handler, Session, Subscription
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.suspects import REFUSED_FIRST_S, REFUSED_MAX_S, STEADY_S
from agent.mqtt.trouble import Told, Trouble
from agent.threads import in_thread
from protocol.effects import Tell

QOS_MAX: Final = 1  # at least once: what comes twice has the same id, or a key
FILTER_BYTES_MAX: Final = 1024
GOODBYE_S: Final = 2.0
MAIN: Final = ""
ANSWERS: Final = "answers"
ONLINE, OFFLINE = b"online", b"offline"
_log = logging.getLogger("shoal.mqtt")

Done = Callable[[str], None]
Watcher = Callable[[str, bool], None]  # a broker's name, and whether it is connected now
SessionWatcher = Callable[[str, str, bool], None]  # and of one of its sessions, by its name


class Broker:
    """One broker: its main session, and those that subscriptions asked for."""

    def __init__(
        self,
        name: str,
        settings: BrokerSettings,
        peer: str,
        status_topic: str,
        changed: Watcher,
        session_changed: SessionWatcher,
        tell: Callable[[Tell], None],
        rng: Random,
    ) -> None:
        self.name = name
        self.settings = settings
        self._denied = Denied(trio.current_time)
        self._unanswerable = Denied(trio.current_time)
        self._answers: list[tuple[Outgoing, Done]] = []  # that wait for their connection
        self._id = settings.client_id or f"shoal-{peer[-12:]}"
        self._status_topic = status_topic
        self._changed = changed
        self._session_changed = session_changed
        self._tell = tell
        self._told = Told(trio.current_time)
        self._lasting: dict[Session, str] = {}  # kinds of trouble since the last connection
        self._rng = rng
        self._nursery: trio.Nursery | None = None
        self._saying = trio.CancelScope()  # online, once more
        self._unsaid = 0  # how often in a row it was said again in vain
        self._sessions = {MAIN: self._session(MAIN)}

    def _session(self, name: str) -> Session:
        main = name == MAIN
        return Session(
            self.name,
            self.settings,
            self._id if main else f"{self._id}-{name}",
            persistent=name not in (MAIN, ANSWERS),
            will=Will(self._status_topic, OFFLINE) if main else None,
            changed=self._on_changed,
            denied=self._tell_denied,
            unreadable=self._tell_unreadable,
            rng=self._rng,
        )

    # ---- for who uses it ---------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._sessions[MAIN].connected

    @property
    def trouble(self) -> Trouble | None:
        """Why one of its sessions is not connected; None where all are, or nothing is known yet.
        That of answers is another's to end, who is no trouble of this device's: until it connects
        again, which takes a second."""
        others = [s for name, s in self._sessions.items() if name != ANSWERS or not s.connects]
        return next((s.trouble for s in others if s.trouble is not None), None)

    @property
    def room(self) -> int:
        """How many more messages may be on their way to it; 0 while it is not connected."""
        return self._sessions[MAIN].room

    def has_room(self, spare: int) -> bool:
        """Whether one more may go that has to leave so many places for others."""
        return has_room(self.room, self.window, spare)

    @property
    def window(self) -> int:
        """How many it lets be on their way at once, as far as it is connected."""
        return self._sessions[MAIN].window

    @property
    def limit_bytes(self) -> int:
        """Of a message that it takes, as far as it has said so; 0: any."""
        return self._sessions[MAIN].limit_bytes

    def publish(self, message: Outgoing, done: Done) -> bool:
        """`done` hears "" once the broker has acknowledged it (at QoS 0: once it has left), LOST if
        the connection was before that, or why it was refused (agent.mqtt.refusal). Where that is
        for its topic, this is refused for ten minutes, for a Mosquitto of Debian 12 ends the
        connection over each of them. False, and no `done`, without room."""
        assert message.qos <= QOS_MAX, message
        return self._publish(self._sessions[MAIN], self._denied, message, done)

    def answer(self, message: Outgoing, done: Done) -> bool:
        """As `publish`, over a connection of its own, that is there from the first one on: whoever
        may ask says where answers go, and a broker may end the connection over each that it does
        not allow. Nothing else is to end with it, and nobody is told but by `done`."""
        session = self._begun(ANSWERS)
        if not session.connected:
            self._answers.append((message, done))
            return True
        return self._publish(session, self._unanswerable, message, done)

    def _publish(self, session: Session, denied: Denied, message: Outgoing, done: Done) -> bool:
        topic = message.kin
        if why := denied.why(topic):
            trio.lowlevel.current_trio_token().run_sync_soon(tell, done, why)
            return True

        def ended(problem: str) -> None:
            if concerns_topic(problem):
                denied.add(topic, problem)
                if denied is self._denied:
                    self._tell_denied(topic, problem)
            elif not problem:
                denied.remove(topic)
            done(problem)

        return session.publish(message, ended)

    def _go_on_answering(self, lost: bool) -> None:
        """Its connection has come about, or what waits for it is `lost` with the main one's end,
        of which whoever sent it hears."""
        waiting, self._answers = self._answers, []
        for message, done in waiting:
            if lost or not self.answer(message, done):
                tell(done, LOST)

    def subscribe(
        self,
        topic_filter: str,
        qos: int,
        handler: Handler,
        session: str = MAIN,
        told: Callable[[str], None] = lambda problem: None,
        needed: bool = True,
        retained: bool = False,
    ) -> Subscription:
        """Have `handler` called with each message, over all reconnects, until the subscription is
        closed. `problem` of the subscription says why the broker does not allow it; `told` hears
        that, or "", with each connection. What is not `needed` is no trouble where it is denied.

        With a `session` name the subscription belongs to a connection of its own, for which the
        broker keeps what comes while this device is away (`session_s` of its settings), and what
        was not acknowledged; names are to be few and the same after a restart. Make all
        subscriptions of one session without an `await` between: what waits comes as soon as it is
        connected.
        Without, what was not acknowledged by the end of a connection is gone.

        What a topic has retained comes with the first subscription to it in a session, and where
        `retained` says so with this one as well, also where it is made while the broker is away.

        `qos` 2 is heard as 1. Under MQTT 3.1.1 a message may come once for each subscription that
        matches, and not only to the handler of that one. Raises ValueError for no filter.
        """
        check_filter(topic_filter)
        own = self._begun(session)
        return own.add(topic_filter, min(qos, QOS_MAX), handler, told, needed, retained)

    def unsubscribe(self, topic_filter: str, session: str, left: Callable[[], None]) -> None:
        """End what an earlier life may have subscribed to in a session, and this one does not; it
        is connected for that. `left` is called once the broker has said so, unless it was
        subscribed to again by then."""
        self._begun(session).leave(topic_filter, left)

    def _begun(self, name: str) -> Session:
        if name not in self._sessions:
            self._sessions[name] = made = self._session(name)
            if self._nursery is not None:
                self._nursery.start_soon(made.run)
        return self._sessions[name]

    def renew(self, session: str) -> None:
        """Have a session connect anew: what was not acknowledged comes again."""
        self._sessions[session].renew()

    def begun_anew(self, session: str) -> bool:
        """Whether the broker had kept nothing of a session when that connected last; then numbers
        of packets begin anew."""
        return self._sessions[session].begun_anew

    def counters(self) -> dict[str, int]:
        sessions = list(self._sessions.values())
        return {
            "received": sum(session.received for session in sessions),
            "unmatched": sum(session.unmatched for session in sessions),
            "unreadable": sum(session.unreadable for session in sessions),
        }

    # ---- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for session in self._sessions.values():
                nursery.start_soon(session.run)

    async def say_goodbye(self) -> None:
        """`offline`, as the will would say it, and a proper end; where that does not arrive the
        will is to say it, and there is none after a proper end."""
        self._saying.cancel()
        said = self.connected and await self._say_offline()
        for name, session in self._sessions.items():
            await session.say_goodbye(properly=said or name != MAIN)

    async def _say_offline(self) -> bool:
        """Whether the broker has it; a message that goes alone may leave no room for it."""
        ends: list[str] = []
        gone = trio.Event()

        def ended(problem: str) -> None:
            ends.append(problem)
            gone.set()

        message = Outgoing(self._status_topic, OFFLINE, qos=1, retain=True)
        if self.publish(message, ended):
            with trio.move_on_after(GOODBYE_S):
                await gone.wait()
        return ends == [""]

    @property
    def refusals(self) -> dict[str, str]:
        """Topics that the broker does not allow, and filters of subscriptions, with why."""
        found = self._denied.listed()
        for session in self._sessions.values():
            found |= {
                each.topic_filter: each.problem
                for each in session.subscriptions
                if each.problem and each.needed
            }
        return found

    def _tell_denied(self, topic: str, why: str) -> None:
        """Once, by topic or filter."""
        if self._told.fresh(f"denied {topic}"):
            text = f"broker {self.name} does not allow {topic}: {why}; see its access list"
            self._tell(Tell("mqtt.denied", text, fields={"broker": self.name, "topic": topic}))

    def _tell_unreadable(self, why: str) -> None:
        if self._told.fresh("unreadable"):
            text = f"broker {self.name} passes on what is no message: {why}; it is left out"
            self._tell(Tell("mqtt.unreadable", text, fields={"broker": self.name}))

    def _on_changed(self, session: Session, trouble: Trouble | None) -> None:
        fields: dict[str, object] = {"broker": self.name}
        if trouble is None:
            self._lasting.pop(session, None)
        elif session.connects and session is self._sessions.get(ANSWERS):
            pass  # it ended over an answer
        elif self._lasting.get(session) != trouble.kind and self._told.fresh(trouble.kind):
            text = f"broker {self.name}: {trouble.text}; {trouble.fix}"
            self._tell(Tell("mqtt.trouble", text, fields={**fields, "kind": trouble.kind}))
        if trouble is not None:
            self._lasting[session] = trouble.kind
        name = next(name for name, each in self._sessions.items() if each is session)
        connected = session.connected  # one that is renewed is not, and has no trouble either
        self._session_changed(self.name, name, connected)
        if name == ANSWERS and connected:
            self._go_on_answering(lost=False)
        if name != MAIN:
            return
        if not connected:
            self._go_on_answering(lost=True)
        self._saying.cancel()
        if connected:
            self._say_online()
            if self._told.fresh("connected"):
                self._tell(
                    Tell("mqtt.connected", f"connected to broker {self.name}", fields=fields)
                )
        self._changed(self.name, connected)

    def _say_online(self) -> None:
        """Until the broker has it: another may tell by it whether this device is there."""
        status = Outgoing(self._status_topic, ONLINE, qos=1, retain=True)
        if not self.publish(status, self._said_online):
            self._later(STEADY_S)

    def _said_online(self, problem: str) -> None:
        if not problem:
            self._unsaid = 0
        elif problem == HELD:
            self._later(STEADY_S)
        elif problem != LOST:  # then the next connection says it
            self._later(min(REFUSED_FIRST_S * 2 ** min(self._unsaid, 16), REFUSED_MAX_S))

    def _later(self, seconds: float) -> None:
        self._saying.cancel()
        self._saying = saying = trio.CancelScope()

        async def wait() -> None:
            with saying:
                await trio.sleep(seconds)  # or until the connection ends
                self._unsaid += seconds >= REFUSED_FIRST_S
                self._say_online()

        if self._nursery is not None:
            self._nursery.start_soon(wait)


class Brokers:
    """All that are configured; empty where none is, and then nothing of MQTT is imported."""

    def __init__(
        self,
        settings: Mapping[str, BrokerSettings],
        peer: str,
        root: str,
        tell: Callable[[Tell], None],
        rng: Random,
    ) -> None:
        self.root = root  # of the topic tree: <prefix>/<shoal>
        self._watchers: list[Watcher] = []
        self._session_watchers: list[SessionWatcher] = []
        status = f"{root}/peer/{peer}/status"
        self._brokers = {
            name: Broker(name, each, peer, status, self._on_changed, self._on_session, tell, rng)
            for name, each in settings.items()
        }

    def __iter__(self) -> Iterator[Broker]:
        return iter(list(self._brokers.values()))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._brokers)

    def named(self, name: str) -> Broker | None:
        return self._brokers.get(name)

    def watch(self, watcher: Watcher) -> None:
        """Called whenever a broker's main connection has come about or is gone."""
        self._watchers.append(watcher)

    def watch_sessions(self, watcher: SessionWatcher) -> None:
        """The same of each session, the main one's name being empty."""
        self._session_watchers.append(watcher)

    def _on_changed(self, name: str, connected: bool) -> None:
        for watcher in self._watchers:
            try:
                watcher(name, connected)
            except Exception:
                _log.exception("broker %s", name)

    def _on_session(self, name: str, session: str, connected: bool) -> None:
        for watcher in self._session_watchers:
            try:
                watcher(name, session, connected)
            except Exception:
                _log.exception("broker %s", name)

    async def run(self) -> None:
        """Keep connected to all, until cancelled."""
        if not self._brokers:
            return
        await in_thread(_import)
        async with trio.open_nursery() as nursery:
            for broker in self._brokers.values():
                nursery.start_soon(broker.run)

    async def say_goodbye(self) -> None:
        async with trio.open_nursery() as nursery:
            for broker in self._brokers.values():
                nursery.start_soon(broker.say_goodbye)


def has_room(room: int, window: int, spare: int) -> bool:
    """Of `window` places `room` are free, and `spare` are to stay so: fewer than there are, or a
    broker that takes one message at a time (Mosquitto: max_inflight_messages) would get nothing."""
    return room > max(0, min(spare, window - 1))


def check_filter(topic_filter: str) -> None:
    """Raises ValueError with what is allowed, for what is no topic filter (MQTT 5, 4.7)."""
    levels = topic_filter.split("/")
    if not topic_filter or len(topic_filter.encode()) > FILTER_BYTES_MAX or "\0" in topic_filter:
        raise ValueError(f"{topic_filter!r:.80} is no topic filter: allowed: 1 to 1024 bytes")
    for at, level in enumerate(levels):
        if "#" in level and (level != "#" or at != len(levels) - 1):
            raise ValueError(f"{topic_filter!r:.80}: # stands alone, behind the last /")
        if "+" in level and level != "+":
            raise ValueError(f"{topic_filter!r:.80}: + stands alone between two /")


def _import() -> None:
    """Beside the loop, which has others to serve for the tens of milliseconds that it takes."""
    import agent.mqtt.guarded  # noqa: F401

"""A backend in memory: jobs that run nowhere, for the control API, its client and the CLI.

The command of a job says what becomes of it: `echo TEXT...`, `exit CODE`, `fault`, `raw` (output
that is no UTF-8), `warn TEXT` (standard error), `wait` (until `finish` or a stop).
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from agent.client import THIS_DEVICE
from agent.control.backend import FINAL_STATES, LogQuery, RequestError
from agent.control.feed import Feed, Follower
from protocol.errors import JobSpecError
from protocol.job import JobSpec

PEERS = ("pi-kitchen", "pi-attic", "pi-shed")
POLICY = {"types": ["batch", "ops"], "hours": [], "mains_only": True, "temperature_max_c": 80}


def peer_id(name: str) -> str:
    return "12D3KooW" + hashlib.sha256(name.encode()).hexdigest()[:36]


class MemoryBackend:
    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000
        self.feed = Feed(lambda: self.now_ms)
        self.views: dict[str, dict[str, Any]] = {}
        self.output: dict[str, list[dict[str, Any]]] = {}
        self.archives: dict[str, bytes] = {}
        self.files: dict[tuple[str, int], bytes] = {}  # result archives by job and slot
        self.flowing = trio.Event()  # how those come: a new one holds them after the first piece
        self.flowing.set()
        self.gone: dict[tuple[str, int], str] = {}  # why those are not to be had
        self.invited: list[tuple[int, int, list[str], dict[str, str]]] = []
        self.submitted: list[dict[str, Any]] = []
        self.ended = trio.Event()
        self.changed = trio.Event()
        self.silent: list[str] = []
        self.live: dict[str, str] = {}
        self.draining = False
        self.forgotten: list[str] = []
        self.relayed: dict[str, str] = {}  # by name: through whom
        self.log_flood = 0
        self.log_pause: trio.Event | None = None  # before output that is not followed ends
        self.archive_failure: Exception | None = None
        self.metrics_failure: Exception | None = None
        self.scraped = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["MemoryBackend"]:
        async with trio.open_nursery() as self.nursery:
            yield self
            self.nursery.cancel_scope.cancel()

    def status(self) -> dict[str, Any]:
        return {
            "peer": peer_id("pi-kitchen"),
            "name": "pi-kitchen",
            "shoal": "home",
            "version": "0.1.0",
            "uptime_s": 90,
            "peers": 3,
            "running": 0,
        }

    def peers(self) -> list[dict[str, Any]]:
        return [
            {
                "id": peer_id(name),
                "name": name,
                "state": "dead" if name == "pi-shed" else "alive",
                "self": name == "pi-kitchen",
                "connected": name != "pi-shed" and name not in self.relayed,
                "via": self.relayed.get(name, ""),
                "incarnation": 4,
                "addresses": ["/ip4/192.0.2.7/tcp/4001"],
                "labels": {"room": name.removeprefix("pi-")},
                "engines": ["process"],
                "cpu_m": 4000,
                "memory_bytes": 2 * 1024**3,
                "disk_bytes": 8 * 1024**3,
                "gpus": 0,
                "version": "0.1.0",
                "roles": ["compute", "submit"],
                "since_s": 75.0,
                "reason": "refused twice" if name == "pi-shed" else "",
                "draining": name == "pi-kitchen" and self.draining,
            }
            for name in PEERS
            if name not in self.forgotten
        ]

    def peer(self, wanted: str) -> dict[str, Any]:
        names = ("pi-kitchen",) if wanted == THIS_DEVICE else (wanted,)
        for view in self.peers():
            if view["name"] in names and view["self"]:
                return {**view, "policy": POLICY, "label_sources": self.labels()}
            if view["name"] in names:
                return view
        raise RequestError(404, f"no peer {wanted!r} is known here")

    async def drain(self, wanted: str, draining: bool) -> dict[str, Any]:
        view = self.peer(wanted)
        if not view["self"]:
            raise RequestError(400, f"a device is drained on itself: --host ssh://{view['name']}")
        self.draining = draining
        return {"peer": view["id"], "name": view["name"], "draining": draining, "running": 2}

    async def forget(self, wanted: str) -> dict[str, Any]:
        view = self.peer(wanted)
        if view["state"] != "dead":
            raise RequestError(403, f"{view['name']} is alive")
        self.forgotten.append(view["name"])
        return {"peer": view["id"], "name": view["name"]}

    def labels(self) -> list[dict[str, Any]]:
        found = [{"name": "room", "value": "kitchen", "source": "invite"}]
        live = self.live.items()
        return [*found, *({"name": k, "value": v, "source": "set"} for k, v in live)]

    async def label(self, given: dict[str, str], taken: list[str]) -> list[dict[str, Any]]:
        if "arch" in given:
            raise RequestError(400, "the label arch is the agent's own")
        self.live = {k: v for k, v in (self.live | given).items() if k not in taken}
        return self.labels()

    def config_view(self) -> dict[str, Any]:
        return {"name": {"value": "pi-kitchen", "source": "file"}}

    async def metrics(self) -> bytes:
        if self.metrics_failure is not None:
            raise self.metrics_failure
        self.scraped += 1
        return (
            b"# HELP shoal_peers Other peers known here.\n# TYPE shoal_peers gauge\n"
            b'shoal_peers{state="alive"} 2.0\nshoal_peers{state="dead"} 0.0\n'
        )

    def doctor(self) -> list[dict[str, Any]]:
        return [
            {"check": "clock", "ok": True, "text": "synchronised", "fix": ""},
            {"check": "user", "ok": False, "text": "tasks run as you", "fix": "run as root"},
            {"check": "battery", "ok": None, "text": "cannot be told here", "fix": ""},
        ]

    async def submit(self, spec_plain: dict[str, Any], key: str) -> dict[str, Any]:
        try:
            engine = spec_plain["Tasks"][0]["Engine"]
            if engine.get("Type") in ("docker", "wasm"):  # played as if it did nothing else
                JobSpec.from_plain(spec_plain)
                command = ["echo", *engine["Params"].get("Parameters", ())]
            else:
                command = engine["Params"]["Command"]
        except JobSpecError as error:
            raise RequestError(400, error.message, error.path) from None
        except (KeyError, IndexError, TypeError):
            raise RequestError(400, "missing", "Tasks") from None
        if spec_plain.get("Count", 1) > 100:
            raise RequestError(400, "101 is out of range; allowed: 1 to 100", "Count")
        job = hashlib.sha256(key.encode()).hexdigest()[:32]
        unchanged = job in self.views
        if not unchanged:
            self.submitted.append(spec_plain)
            self._accept(job, spec_plain)
            self.nursery.start_soon(self._play, job, command)
        return {
            "job": job,
            "name": self.views[job]["name"],
            "revision": "r" * 32,
            "unchanged": unchanged,
            "durable_on": 2,
            "warning": "",
        }

    async def run_template(
        self, name: str, namespace: str, params: dict[str, str], key: str
    ) -> dict[str, Any]:
        found = [v for v in self.views.values() if (v["name"], v["type"]) == (name, "template")]
        if not found or namespace != "default":
            raise RequestError(404, f"no template {name!r} is known here")
        if "what" not in params:
            raise RequestError(400, "missing parameter what; give it with -p what=VALUE")
        task = {"Engine": {"Params": {"Command": ["echo", params["what"]]}}}
        return await self.submit({"Name": name, "Tasks": [task]}, key)

    async def jobs(self, prefix: str, limit: int, detail: bool) -> dict[str, Any]:
        found = [view for job, view in self.views.items() if job.startswith(prefix)]
        return {"jobs": found[::-1][:limit], "silent": self.silent}

    async def job(self, wanted: str) -> dict[str, Any]:
        found = [v for job, v in self.views.items() if job.startswith(wanted)]
        found = found or [v for v in self.views.values() if v["name"] == wanted]
        if not found:
            raise RequestError(
                404, f"no job {wanted!r} is known here or to the peers that answered"
            )
        if len(found) > 1:
            ids = ", ".join(view["id"][:8] for view in found)
            raise RequestError(409, f"{wanted!r} may be any of {ids}; give more of the id")
        return dict(found[0])

    async def stop(self, job: str) -> dict[str, Any]:
        view = await self.job(job)
        if view["state"] not in FINAL_STATES:
            self.finish(view["id"], None, "stopped")
        return {"job": view["id"], "state": "stopped"}

    async def versions(self, job: str) -> list[dict[str, Any]]:
        view = await self.job(job)
        found: list[dict[str, Any]] = view.get("versions", [])
        return found

    async def delete(self, job: str) -> dict[str, Any]:
        view = await self.job(job)
        self.finish(view["id"], None, "deleted")
        return {"job": view["id"], "quiet": 1, "stopping": [], "unheard": []}

    def events(self, since_seq: int, job: str | None) -> Follower:
        return self.feed.follow(since_seq, job)

    def recent(self, since_seq: int, job: str | None) -> list[dict[str, Any]]:
        return self.feed.recent(since_seq, job)

    async def logs(self, job: str, wanted: LogQuery) -> AsyncIterator[dict[str, Any]]:
        if job not in self.views:
            raise RequestError(404, "no such job")
        for i in range(self.log_flood):
            yield {"slot": 0, "peer": "p", "stream": "stdout", "data": f"{i} " + "x" * 1000 + "\n"}
        at = 0
        while True:
            lines = self.output[job]
            while at < len(lines):
                line = lines[at]
                at += 1
                slot, stream = wanted.slot, wanted.stream
                if slot in (None, line["slot"]) and stream in ("both", line["stream"]):
                    yield line
            if self.log_pause is not None:
                pause, self.log_pause = self.log_pause, None
                await pause.wait()
                continue
            if not wanted.follow or self.views[job]["state"] in FINAL_STATES:
                return
            await self.changed.wait()

    async def results(
        self, job: str, slot: int, offset: int, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        data = self.files.get((job, slot))
        if data is None:
            raise RequestError(404, f"slot {slot} has left no result files")
        for at in range(offset, len(data), 1000):
            await write(data[at : at + 1000])
            await self.flowing.wait()

    async def missing(self, job: str) -> list[dict[str, Any]]:
        view = await self.job(job)
        found = (
            (slot["slot"], self.gone.get((view["id"], slot["slot"]))) for slot in view["slots"]
        )
        return [{"slot": slot, "reason": reason} for slot, reason in found if reason]

    async def invite(
        self, expires_s: int, uses: int, roles: list[str], labels: dict[str, str]
    ) -> dict[str, Any]:
        self.invited.append((expires_s, uses, roles, labels))
        return {"token": "shoal-token-1", "expires_ms": self.now_ms + expires_s * 1000}

    def invites(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{number:032x}",
                "used": 0,
                "uses": uses,
                "roles": roles,
                "labels": labels,
                "expires_in_s": expires_s,
            }
            for number, (expires_s, uses, roles, labels) in enumerate(self.invited)
        ]

    async def withdraw_invite(self, invite: str) -> dict[str, Any]:
        for number, each in enumerate(self.invites()):
            if each["id"] == invite:
                del self.invited[number]
                return {"id": invite}
        raise RequestError(404, "no such invite")

    async def put_archive(self, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        data = b"".join([chunk async for chunk in chunks])
        if self.archive_failure:
            raise self.archive_failure
        digest = hashlib.sha256(data).hexdigest()
        self.archives[digest] = data
        return {"digest": digest, "size": len(data)}

    def shutdown(self) -> None:
        self.ended.set()

    def write(
        self,
        job: str,
        data: bytes | str,
        slot: int = 0,
        stream: str = "stdout",
        peer: str = "pi-attic",
        **told: Any,
    ) -> None:
        """`told`: of output that cannot be had, see Backend.logs."""
        self.output[job].append(
            {
                "slot": slot,
                "peer": peer_id(peer),
                "peer_name": peer,
                "stream": stream,
                "data": data,
                "execution": "e" * 32,
                **told,
            }
        )
        self._wake()

    def finish(self, job: str, exit_code: int | None, state: str = "") -> None:
        view = self.views[job]
        view["state"] = state or ("completed" if exit_code == 0 else "failed")
        for slot in view["slots"]:
            slot.update(state=view["state"], exit_code=exit_code)
            self._tell(
                job,
                "execution.ended",
                f"slot {slot['slot']} ended",
                slot=slot["slot"],
                exit_code=exit_code,
            )
        self._tell(job, f"job.{view['state']}", f"job {view['state']}", exit_code=exit_code)
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _tell(self, job: str, kind: str, text: str, peer: str | None = None, **fields: Any) -> None:
        self.feed.tell(kind, text, job=job, peer=peer, fields=fields)

    def _accept(self, job: str, spec: dict[str, Any]) -> None:
        self.output[job] = []
        self.views[job] = {
            "id": job,
            "name": spec.get("Name") or "main",
            "namespace": "default",
            "type": "template" if "Parameters" in spec else spec.get("Type", "batch"),
            "state": "pending",
            "reason": "",
            "created_ms": self.now_ms,
            "coordinator": peer_id("pi-kitchen"),
            "coordinator_name": "pi-kitchen",
            "term": 1,
            "revision": "r" * 32,
            "generation": 1,
            "count": spec.get("Count", 1),
            "desired": "running",
            "author": peer_id("pi-kitchen"),
            "author_name": "pi-kitchen",
            "slots": [],
            "executions": [],
            "why": [],
            "spec": spec,
        }
        self._tell(job, "job.accepted", "accepted, on 2 peers", durable_on=2)

    async def _play(self, job: str, command: list[str]) -> None:
        view = self.views[job]
        self._tell(job, "job.asking", "asking 3 peers", peers=3)
        await trio.lowlevel.checkpoint()
        self._tell(job, "job.bids", "3 bids", bids=3, asked=3)
        ops = view["type"] == "ops"
        places = [peer["name"] for peer in self.peers() if peer["state"] == "alive"]
        for slot in range(len(places) if ops else view["count"]):
            self._begin(job, slot, places[slot] if ops else "pi-attic")
        view["state"] = "running"
        view["why"] = _why(self.now_ms)
        await trio.lowlevel.checkpoint()
        match command:
            case ["everywhere", *codes]:
                for slot, code in zip(view["slots"], codes, strict=True):
                    self.write(job, f"{code} here\n", slot["slot"], peer=slot["executor_name"])
                self.finish(job, 0, "failed")
                for slot, code in zip(view["slots"], codes, strict=True):
                    ended = int(code) if code.isdigit() else None
                    state = {"0": "completed"}.get(code, "failed" if code.isdigit() else code)
                    slot.update(state=state, exit_code=ended, reason="" if ended == 0 else "why")
                view["state"] = "failed" if any(code != "0" for code in codes) else "completed"
            case ["echo", *words]:
                for slot in range(view["count"]):
                    self.write(job, " ".join(words).encode() + b"\n", slot)
                self.finish(job, 0)
            case ["warn", word]:
                self.write(job, word.encode() + b"\n", stream="stderr")
                self.finish(job, 0)
            case ["raw"]:
                self.write(job, b"\xff\xfe\n")
                self.finish(job, 0)
            case ["exit", code]:
                self.finish(job, int(code))
            case ["fault"]:
                self.finish(job, None)
            case ["wait"]:
                pass
            case _:
                self.finish(job, 0)

    def _begin(self, job: str, slot: int, name: str) -> None:
        """A slot's task runs."""
        self.views[job]["slots"].append(
            {
                "slot": slot,
                "state": "running",
                "executor": peer_id(name),
                "executor_name": name,
                "attempt": 1,
                "term": 1,
                "exit_code": None,
                "verdict": None,
                "reason": "",
                "failures": 0,
                "execution": f"e{slot}" * 16,
            }
        )
        self._tell(
            job,
            "job.awarded",
            "awarded to pi-attic",
            peer_id("pi-attic"),
            slot=slot,
            name="pi-attic",
        )
        self._tell(
            job,
            "execution.started",
            "running on pi-attic",
            peer_id("pi-attic"),
            slot=slot,
            name="pi-attic",
        )


def _why(at_ms: int) -> list[dict[str, Any]]:
    asked = [
        {
            "name": "pi-attic",
            "answer": "bid",
            "score": 812,
            "awarded": [0],
            "reason": "",
            "facts": {"cpu_free_m": 3200, "memory_free_bytes": 1024**3, "temperature_mc": 51_000},
        },
        {
            "name": "pi-kitchen",
            "answer": "refused",
            "score": None,
            "awarded": [],
            "facts": {},
            "reason": "cpu: needs 4000m, 1000m free",
        },
        {
            "name": "pi-shed",
            "answer": "filtered",
            "score": None,
            "awarded": [],
            "facts": {},
            "reason": "label arch: wanted 'arm64', found 'amd64'",
        },
    ]
    for entry in asked:
        entry["peer"] = peer_id(str(entry["name"]))
    return [{"round": 1, "at_ms": at_ms, "slots": 1, "asked": asked, "note": ""}]

"""A real agent that has nothing to do: what it holds in memory, what it writes, when it starts.

Figures beside budgets are the bench's (scripts/bench start, idle); here is what does not depend on
how fast the machine is.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.lab import ROOT, Device, Lab, answers, environment_of, process_job

# Runs `shoal`, and says at its end which modules are loaded that are no stand-ins (agent/diet.py).
PROGRAM = """
import json, sys
from agent.cli.entry import main
code = main(sys.argv[1:])
real = [name for name, module in list(sys.modules.items()) if getattr(module, "__file__", None)]
print(json.dumps(sorted(real)))
raise SystemExit(code)
"""

# Each is 0.3 to 17 MB; nothing in an idle agent runs a line of them.
ON_DEMAND = (
    "agent.engines.wasm_child",
    "agent.mdns",  # this agent is told to do without
    "docker",
    "paho",
    "prometheus_client",
    "requests",
    "rich",
    "shtab",
    "urllib3",
    "wasmtime",
    "yaml",
    "zeroconf",
)
NEVER = (
    "Crypto",
    "aioquic",
    "coincurve",
    "dns",
    "fastecdsa",
    "grpc",
    "h2",
    "hpack",
    "httpx",
    "jinja2",
    "libp2p.bitswap",
    "libp2p.discovery",
    "libp2p.kad_dht",
    "libp2p.relay",
    "libp2p.security.secio",
    "libp2p.security.tls",
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
    "miniupnpc",
    "multiaddr.resolvers",
    "pydoc",
    "pytest",
    "trio_websocket",
    "unittest",
    "wsproto",
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab(1)
    yield made
    made.close()


def start(lab: Lab, device: Device) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [
            *(sys.executable, "-c", PROGRAM, "--data-dir", str(device.data_dir)),
            *("--socket", str(device.socket), "up", *device.listen),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment_of(device),
        text=True,
    )
    device.process = started  # type: ignore[assignment]
    lab.until(lambda: answers(device), "it answers")
    return started


def end(device: Device, started: subprocess.Popen[str]) -> set[str]:
    """The modules that it had loaded, with the packages that they are in."""
    started.send_signal(signal.SIGTERM)
    out, _ = started.communicate(timeout=60)
    device.process = None
    assert started.returncode == 0
    return set(json.loads(out.splitlines()[-1]))


def loaded(modules: set[str], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in modules]


def test_an_idle_agent_has_loaded_only_what_runs(lab: Lab) -> None:
    started = start(lab, lab[0])
    with lab[0].client() as client:
        client.status(), client.peers(), client.doctor(), client.jobs()
        view = list(client.run(process_job("true")))[-1]["final"]
        assert view["state"] == "completed", "a program's job needs no more, either"
    modules = end(lab[0], started)
    assert {"libp2p.pubsub.gossipsub", "agent.main", "hypercorn.protocol.h11"} <= modules
    assert loaded(modules, (*ON_DEMAND, *NEVER)) == []


def test_the_first_scrape_loads_the_library_for_it(lab: Lab) -> None:
    started = start(lab, lab[0])
    with lab[0].client() as client:
        before = client.metrics()
        assert "shoal_build_info" in before and before != client.metrics()
    modules = end(lab[0], started)
    assert loaded(modules, (*ON_DEMAND, *NEVER)) == ["prometheus_client"]


def test_a_scrape_tells_of_a_real_shoal_over_tcp() -> None:
    lab = Lab(2)
    lab[0].flags = ["--metrics-listen", "127.0.0.1:0"]
    with lab:
        doctor = lab.shoal(lab[0], "doctor").out
        url = doctor.partition("at http://")[2].split()[0]
        host, _, path = url.partition("/")
        assert path == "metrics", doctor
        series = over_tcp(host, "/metrics")
        assert 'shoal_peers{state="alive"} 1.0' in series
        assert "shoal_connections 1.0" in series and 'name="d00"' in series
        assert "no such thing" in over_tcp(host, "/v1/status")
        shown = lab.shoal(lab[0], "metrics").out
        names = {line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE")}
        assert names == {line.split()[2] for line in series.splitlines() if "# TYPE" in line}


def over_tcp(address: str, path: str) -> str:
    from http.client import HTTPConnection

    connection = HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_an_idle_agent_leaves_the_disk_alone(lab: Lab) -> None:
    """At most 2 fsyncs a minute (DESIGN 8). An agent alone has said all that it has to say within
    seconds; to wait for a whole minute of nothing is the bench's."""
    started = start(lab, lab[0])
    with lab[0].client() as client:
        began = client.status()

        def later() -> dict[str, object] | None:
            status = client.status()
            return status if status["uptime_s"] >= began["uptime_s"] + 12 else None

        ended = lab.until(later, "it was idle for a while", 60)
    end(lab[0], started)
    assert ended["fsyncs"] - began["fsyncs"] <= 2
    assert ended["bytes_written"] - began["bytes_written"] <= 64 * 1024

"""js-libp2p on Node 22 against an agent's transport: libp2p's wire, not just py-libp2p's.

The first run installs Node and js-libp2p with npm into .cache/js; later ones need no network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from agent.transport import ARCHIVE_PROTOCOL, JOIN_PROTOCOL, Stream
from protocol.messages import Goodbye
from protocol.wire import decode_as
from tests.agent.transport.peers import member, running

SOURCE = Path(__file__).parent / "js"
CACHE = Path(__file__).parents[2] / ".cache" / "js"
INSTALL = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]


@pytest.fixture(scope="session")
def js() -> Path:
    """The directory with Node and js-libp2p; installed when package.json has changed."""
    manifest = (SOURCE / "package.json").read_text()
    installed = CACHE / "installed.json"
    if not installed.exists() or installed.read_text() != manifest:
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "package.json").write_text(manifest)
        done = subprocess.run(
            INSTALL, cwd=CACHE, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{' '.join(INSTALL)} in {CACHE}: {done.stderr}"
        installed.write_text(manifest)
    shutil.copy(SOURCE / "stranger.mjs", CACHE)
    return CACHE


async def test_a_js_stranger_is_served_what_strangers_are_and_refused_the_rest(js: Path) -> None:
    agent = member("a", hello_s=2.0)

    async def join(stream: Stream) -> None:
        await stream.write_frame(await stream.read_frame() + b"joined")

    async def archive(stream: Stream) -> None:
        await stream.write_frame(b"secret")

    agent.transport.serve(JOIN_PROTOCOL, join, members_only=False)
    agent.transport.serve(ARCHIVE_PROTOCOL, archive, members_only=True)
    async with running(agent):
        address = f"{agent.addresses[0]}/p2p/{agent.id}"
        with trio.fail_after(120):
            done = await trio.run_process(
                [js / "node_modules/node/bin/node", js / "stranger.mjs", address],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    assert (said["encryption"], said["multiplexer"]) == ("/noise", "/yamux/1.0.0")
    assert said["roundTripMs"] < 5000 and said["roundTripAgainMs"] < 5000
    assert {"/shoal/msg/1", "/shoal/join/1", "/meshsub/1.1.0"} <= set(said["protocols"])
    assert said["listenAddrs"] == list(agent.addresses)
    assert bytes.fromhex(said["join"]["received"])[4:] == b"\xf6joined"
    assert "refused" in said["archive"] and "refused" in said["gossip"]
    goodbye = decode_as(bytes.fromhex(said["message"]["received"])[4:], Goodbye)
    assert goodbye.code == "not-a-member"
    assert agent.events == []

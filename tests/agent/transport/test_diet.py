"""The diet: what libp2p only loads is not in the agent's memory."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_what_an_agent_never_uses_is_not_loaded() -> None:
    program = (
        "import sys, agent.transport; from agent.transport.diet import UNUSED; "
        "print([name for name in UNUSED if getattr(sys.modules.get(name), '__file__', None)])"
    )
    assert run(program) == "[]"


def test_others_find_the_real_packages_afterwards() -> None:
    program = (
        "import sys, agent.transport; from agent.transport.diet import _Diet; "
        "print([f for f in sys.meta_path if isinstance(f, _Diet)])"
    )
    assert run(program) == "[]"

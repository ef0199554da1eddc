"""The diet: what libraries only load is not in the agent's memory."""

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
        "import sys, agent.transport, agent.control.server; from agent.diet import *; "
        "loaded = lambda name: getattr(sys.modules.get(name), '__file__', None); "
        "print([name for name in (*LIBP2P, *HYPERCORN) if loaded(name)])"
    )
    assert run(program) == "[]"


def test_others_find_the_real_packages_afterwards() -> None:
    program = (
        "import agent.transport, agent.control.server; "
        "import h2, requests, prometheus_client, dns.resolver, Crypto.Cipher; "
        "print(*(m.__file__ is not None for m in (h2, requests, prometheus_client, Crypto)))"
    )
    assert run(program) == "True True True True"


def test_libp2p_finds_more_of_what_is_left_out_while_it_runs() -> None:
    program = (
        "import agent.transport, libp2p.transport.quic.exceptions as late; print(late.__doc__)"
    )
    assert run(program) == "left out, see agent/diet.py"


def test_a_name_that_only_begins_like_one_left_out_is_loaded() -> None:
    program = (
        "import sys; from agent.diet import without; "
        'exec(\'with without(["wsgiref.hea", "wsgiref"]): import wsgiref.types, tomllib\\n'
        'with without(["csv"]): import _csv\\n\'); '
        "print(hasattr(tomllib, 'loads'), hasattr(_csv, 'reader'))"
    )
    assert run(program) == "True True"


def test_keys_of_kinds_that_are_left_out_are_refused_by_name() -> None:
    """A stand-in must never be what says that a signature is right."""
    program = (
        "import agent.transport; from libp2p.crypto.serialization import deserialize_public_key\n"
        "from libp2p.crypto.pb import crypto_pb2\n"
        "for kind in range(4):\n"
        "    key = crypto_pb2.PublicKey(key_type=kind, data=b'k' * 32).SerializeToString()\n"
        "    try:\n"
        "        print(type(deserialize_public_key(key)).__name__)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
    )
    assert run(program).split() == [
        "MissingDeserializerError",  # RSA
        "Ed25519PublicKey",
        "MissingDeserializerError",  # Secp256k1
        "MissingDeserializerError",  # ECDSA
    ]

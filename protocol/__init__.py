"""The sans-IO half of Shoal: every decision an agent takes, as plain values and state machines.

Nothing here reads a clock, opens a file or a socket, starts a thread or draws ambient randomness:
time comes in as a `Now`, randomness as an injected `random.Random`, signatures as a `Keyring`.
"""

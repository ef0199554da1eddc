"""The agent: the trio shell around the protocol, and the command line that talks to it."""

"""The command line: a thin client of the control API that starts fast."""

"""Settings of all tests: the same examples each time, and a skipped test is a failure."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests import s3server
from tests.s3server import S3Server, s3_server

# A shell that starts tests in the background has them ignore Ctrl-C, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# However slow the machine, and whatever failed here before.
hypothesis.settings.register_profile("shoal", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("shoal")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One for all tests: each has keys of its own."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_any_key(s3: S3Server) -> Iterator[S3Server]:
    """One that takes every key, as AWS does; another (MinIO) has none that are no paths."""
    if s3server.PROGRAM == s3server.OWN:
        yield s3
        return
    with s3_server(s3server.OWN) as server:
        yield server


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that an agent is started by writes the log of this process to its standard error,
    which is closed after the test: what is logged in a later one would be told of as an error."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


NOT_RUN = ("skipped", "xfailed", "xpassed")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that did not run says nothing, so the session did not pass."""
    if session.exitstatus == pytest.ExitCode.OK and _not_run(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if count := _not_run(config):
        terminalreporter.write_line(f"{count} skipped or expected to fail: that is a failure here")


def _not_run(config: pytest.Config) -> int:
    """How many tests were skipped or expected to fail. Workers of xdist report to no terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return 0
    return sum(len(reporter.stats.get(name, ())) for name in NOT_RUN)

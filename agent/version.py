"""The version of this program."""

from typing import Final

VERSION: Final = "0.1.0"  # the same as in pyproject.toml; a test compares them

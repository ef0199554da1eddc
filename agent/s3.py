"""S3 on this device: whether it is here, and the way to a bucket with the device's own keys."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.archives import ArchiveError
from agent.config import S3 as Settings
from agent.s3keys import KeysError, keys_for
from protocol.asks import BUCKET
from protocol.s3 import Place

if TYPE_CHECKING:
    from agent.bucket import Bucket

CLIENT: Final = "minio"  # of the extra shoal[s3]


class BucketError(Exception):
    """What could not be done there, in a sentence; `passing` where it may be tried again."""

    def __init__(self, text: str, passing: bool) -> None:
        super().__init__(text)
        self.passing = passing


class S3:
    """The settings of this device, and whether the client is installed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.present = importlib.util.find_spec(CLIENT) is not None

    @property
    def lacking(self) -> tuple[str, ...]:
        """Kinds of asks that cannot be met, as PolicyConfig has them."""
        return () if self.present else (BUCKET,)

    def trouble(self) -> str:
        """What is wrong with the file of keys that its owner has named; empty where nothing is."""
        file = self._settings.credentials
        if file is None:
            return ""
        try:
            keys_for("", file, self._settings.profile, {})
            mode = file.stat().st_mode
        except (KeysError, OSError) as error:
            return str(error)
        return f"tasks and others can read the access keys in {file}" if mode & 0o044 else ""

    def open(self, place: Place, go_on: Callable[[], None]) -> Bucket:
        """The bucket, which nobody has spoken to yet; see there for `go_on`. Blocks. Raises
        ArchiveError where it cannot be spoken to from here, and BucketError."""
        try:
            from agent.bucket import Bucket
        except ImportError as error:
            raise ArchiveError(f"s3 does not work on this device: {error}") from None
        try:
            settings = self._settings
            keys = keys_for(place.host, settings.credentials, settings.profile, os.environ)
        except KeysError as error:
            raise ArchiveError(str(error)) from None
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        return Bucket(place, keys, region, go_on)

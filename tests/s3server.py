"""An S3 server of a test's own: moto's, in a process of its own, told to check every signature.

Signatures are computed there by botocore, AWS' own client, and so not by what is tested. Usage:
`python -m tests.s3server`; it says where it listens and which keys are good, as one line of JSON,
and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SETTING_UP = 3  # requests of the child itself, before signatures are checked
ANY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}
BUCKETS = ("readings", "results")  # the first keeps versions


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it listens, and a key that may do everything there."""

    endpoint: str
    access: str
    secret: str

    @property
    def host(self) -> str:
        return self.endpoint.removeprefix("http://")

    def client(self) -> Any:
        """AWS' own client, to look at what is there without what is tested."""
        return _client(self.endpoint, self.access, self.secret)

    def put(self, bucket: str, key: str, body: bytes) -> str:
        """Returns its version, where the bucket keeps those."""
        answer = self.client().put_object(Bucket=bucket, Key=key, Body=body)
        return str(answer.get("VersionId", ""))

    def get(self, bucket: str, key: str) -> bytes:
        found: bytes = self.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return found

    def keys(self, bucket: str) -> list[str]:
        found = self.client().list_objects_v2(Bucket=bucket).get("Contents", [])
        return [each["Key"] for each in found]

    def uploads(self, bucket: str) -> list[str]:
        """Keys of uploads in parts that were begun and neither completed nor given up."""
        found = self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [each["Key"] for each in found]

    def credentials(self, path: Path, secret: str = "") -> Path:
        """A file of keys as AWS' tools have it; with another secret one that is no good."""
        lines = ["[default]", f"aws_access_key_id = {self.access}"]
        path.write_text("\n".join([*lines, f"aws_secret_access_key = {secret or self.secret}\n"]))
        path.chmod(0o600)
        return path


@cache
def _client(endpoint: str, access: str, secret: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
    )


@contextmanager
def s3_server() -> Iterator[S3Server]:
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(SETTING_UP)}
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.s3server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    try:
        assert child.stdout is not None
        server = S3Server(**json.loads(child.stdout.readline()))
        client = server.client()
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(
            Bucket=BUCKETS[0], VersioningConfiguration={"Status": "Enabled"}
        )
        yield server
    finally:
        child.kill()
        child.communicate()


def main() -> None:
    """The child: make a user, tell of its key, and serve until nobody wants it any more."""
    import boto3
    from moto.server import ThreadedMotoServer

    said, sys.stdout = sys.stdout, sys.stderr  # the server tells of itself there
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    iam = boto3.client(
        "iam",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    )
    iam.create_user(UserName="tests")
    key = iam.create_access_key(UserName="tests")["AccessKey"]
    iam.put_user_policy(UserName="tests", PolicyName="any", PolicyDocument=json.dumps(ANY))
    told = {"endpoint": endpoint, "access": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    print(json.dumps(told), file=said, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

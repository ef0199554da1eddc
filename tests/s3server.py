"""An S3 server of a test's own: moto's, in a process of its own, told to check every signature.

Signatures are computed there by botocore, AWS' own client, and so not by what is tested. Usage:
`python -m tests.s3server`; it says where it listens and which keys are good, as one line of JSON,
and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
SETTING_UP = 3  # requests of the child itself, before signatures are checked
ANY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}
BUCKETS = ("readings", "results")  # the first keeps versions
OWN: Final = (sys.executable, "-m", "tests.s3server")
# Another server: what begins it, in words of a shell. It says and ends as the one here does.
PROGRAM: Final = shlex.split(os.environ.get("SHOAL_TEST_S3", "")) or OWN
STOP_S: Final = 60.0


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

    def credentials(self, path: Path, secret: str = "", beside: S3Server | None = None) -> Path:
        """A file of keys as AWS' tools have it; with another secret one that is no good. Those
        of `beside` are for its endpoint alone."""
        text = _profile("default", self.access, secret or self.secret)
        if beside is not None:
            text += _profile(beside.host, beside.access, beside.secret)
        path.write_text(text)
        path.chmod(0o600)
        return path


def _profile(name: str, access: str, secret: str) -> str:
    return f"[{name}]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"


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
def s3_server(program: Sequence[str] = PROGRAM) -> Iterator[S3Server]:
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(SETTING_UP)}
    child = subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if program == OWN else None,  # ours tells of each request
        cwd=ROOT,
        env=environment,
    )
    try:
        assert child.stdout is not None
        said = child.stdout.readline()
        assert said, f"{shlex.join(program)} does not start"
        server = S3Server(**json.loads(said))
        client = server.client()
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(
            Bucket=BUCKETS[0], VersioningConfiguration={"Status": "Enabled"}
        )
        yield server
    finally:
        try:
            child.communicate(timeout=STOP_S)  # which ends its standard input
        except subprocess.TimeoutExpired:
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

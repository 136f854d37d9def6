"""A bucket outside of the cluster that pods reach by S3: where a Model's files may lie.

The server is moto's, which checks each request's signature, and what the policy of its key's owner allows.
Called by the tests of fetching.
"""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
from moto.server import ThreadedMotoServer

from isochrone_cluster.places import HOST_ADDRESS

REGION: Final = "us-east-1"
READER: Final = "reader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket: its name, and the keys of a Secret with which its files may be read, and no other way."""

    name: str
    keys: Mapping[str, str]

    def uri(self, key: str) -> str:
        """Return the location of the file ``key``, as a Model names it."""
        return f"s3://{self.name}/{key}"


@contextmanager
def bucket(name: str, files: Mapping[str, Path]) -> Iterator[Bucket]:
    """Serve ``files`` inside the block, by their keys, to whoever may read the bucket ``name``."""
    server = ThreadedMotoServer(ip_address=HOST_ADDRESS, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        # Whoever asks is the owner, until rights are checked.
        _fill(_client("s3", endpoint), name, files)
        reader = _reader(_client("iam", endpoint), name)
        _check_rights(endpoint, after="0")
        try:
            yield Bucket(name=name, keys={"AWS_ENDPOINT_URL": endpoint, **reader})
        finally:
            _check_rights(endpoint, after="inf")  # for the whole process
    finally:
        server.stop()


def _client(service: str, endpoint: str) -> Any:  # noqa: ANN401 - boto3 makes its clients' classes
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="owner",
        aws_secret_access_key="of everything",  # noqa: S106 - nobody checks it yet
    )


def _fill(s3: Any, name: str, files: Mapping[str, Path]) -> None:  # noqa: ANN401
    s3.create_bucket(Bucket=name)
    for key, file in files.items():
        s3.put_object(Bucket=name, Key=key, Body=file.read_bytes())


def _reader(iam: Any, name: str) -> dict[str, str]:  # noqa: ANN401
    """Make a user who may read the bucket; return the user's keys, named as in a Secret."""
    arn = f"arn:aws:s3:::{name}"
    allowed = {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [arn, f"{arn}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.create_user(UserName=READER)
    iam.put_user_policy(UserName=READER, PolicyName="read", PolicyDocument=policy)
    key = iam.create_access_key(UserName=READER)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def _check_rights(endpoint: str, *, after: str) -> None:
    """Have the server check signatures and rights from the request of number ``after`` on."""
    request = urllib.request.Request(
        f"{endpoint}/moto-api/reset-auth",
        data=after.encode(),
        headers={"content-type": "text/plain"},
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        reply.read()

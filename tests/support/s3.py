"""A real S3 server (moto's) as a process of its own, on loopback, and what its owner does behind our back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

ACCESS_KEY: Final = "AKIASWARMTEST"
SECRET_KEY: Final = "a-secret-that-no-log-may-show"

_SERVE: Final = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def environment(endpoint: str, **changes: str) -> dict[str, str]:
    """What a registry's environment says about a store on loopback."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "NO_PROXY": "127.0.0.1",
        **changes,
    }


class S3Server:
    """An S3 server at `endpoint`; `client` is somebody else's, who may do anything there."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        import boto3

        self.process, self.endpoint = process, f"http://127.0.0.1:{port}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def uploads(self, bucket: str) -> list[Any]:
        """The uploads in parts that were begun and neither completed nor aborted."""
        found: list[Any] = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return found


@contextmanager
def s3_server(**variables: str) -> Iterator[S3Server]:
    """Run a server; variables: what its own environment says. Without moto the test is skipped by name."""
    for package in ("boto3", "moto", "flask"):
        pytest.importorskip(package, reason=f"no {package}: pip install -e '.[dev]'")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | variables,
    ) as process:
        assert process.stdout is not None
        try:
            yield S3Server(process, int(process.stdout.readline()))
        finally:
            process.kill()

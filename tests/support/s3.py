"""A real S3 server for tests: moto's, which speaks S3 over HTTP, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: What a report must never hold.
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIDNEVERTOBESHOWN",
    "AWS_SECRET_ACCESS_KEY": "secret-never-to-be-shown",
    "AWS_SESSION_TOKEN": "token-never-to-be-shown",
}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens on a port of this machine."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of a server that keeps what it is given until the end, and logs each request to a file."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            wait_for_port(port)
            assert server.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def client(endpoint: str) -> Any:
    """A client that manages buckets."""
    import boto3

    keys = {name.lower(): value for name, value in SECRETS.items()}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


def environment(endpoint: str) -> dict[str, str]:
    """What the environment says to who uses the server."""
    return {**SECRETS, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}

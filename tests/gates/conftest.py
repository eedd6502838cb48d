"""Fixtures of jobs that run elsewhere."""

import subprocess

import pytest
from elsewhere import BUCKET, HIDING
from s3 import client, environment, s3_server


@pytest.fixture(scope="module")
def hide(tmp_path_factory):
    """The words of a command line that hides folders from the command after ``--``."""
    script = tmp_path_factory.mktemp("hiding") / "hiding"
    script.write_text(HIDING)
    script.chmod(0o755)
    empty = tmp_path_factory.mktemp("empty")
    if subprocess.run([script, empty, "--", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting in a namespace is not permitted")
    return str(script)


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """An empty bucket, and an environment with the keys to it."""
    with s3_server(tmp_path / "requests.log") as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        bucket = client(endpoint)
        bucket.create_bucket(Bucket=BUCKET)
        yield bucket

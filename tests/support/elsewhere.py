"""Jobs that run where the driver's files are not: folders hidden from commands, and a bucket between both."""

from __future__ import annotations

from typing import Any

BUCKET = "tenpak"
GATES = """
    @pytest.mark.quantize(method="int4", group_size=32, max_tokens=640)
    def test_int4(quantized): pass

    @pytest.mark.quantize(method="copied", max_tokens=640)
    def test_asks(quantized):
        assert isinstance(quantized.generate("To be", max_new_tokens=2), str)

    @pytest.mark.quantize(method="broken", max_tokens=640)
    def test_broken(quantized): pass
"""

METHODS = """
import shutil
from pytest_tenpak import Quantizer

class Copied(Quantizer):
    method = "copied"
    def quantize(self, job):
        for path in job.model.iterdir():
            shutil.copy(path, job.out)

class Broken(Quantizer):
    method = "broken"
    def quantize(self, job):
        raise ValueError(f"no config.json of mine in {job.model}")

def pytest_tenpak_register_quantizers(register):
    register(Copied)
    register(Broken)
"""

#: Runs a command where the folders that come first, up to "--", are empty.
HIDING = """#!/bin/sh
hidden=""
while [ "$1" != "--" ]; do hidden="$hidden $1"; shift; done
shift
exec unshare --mount sh -c 'for folder in '"$hidden"'; do mount -t tmpfs tmpfs "$folder" || exit; done
    cd / && exec "$@"' sh "$@"
"""


def keys(s3: Any) -> set[str]:
    """All keys of the bucket."""
    return {row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}

"""A full disk is one failed case with a clear message; whatever needs no room is answered all the same."""

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_tenpak.errors import file_error
from pytest_tenpak.store.store import MANIFEST

CONFTEST = '''
from pytest_tenpak import Quantizer
from pytest_tenpak.quantizers.loading import load_pretrained


class Large(Quantizer):
    """Writes more than the disk takes, by way of the library that writes weights or by itself."""

    method = "large"

    def quantize(self, job):
        import torch
        from safetensors.torch import save_file

        if {by_safetensors}:
            save_file({{"w": torch.ones(8 << 20)}}, job.out / "model.safetensors")
        else:
            (job.out / "model.safetensors").write_bytes(bytes(32 << 20))


def pytest_tenpak_register_quantizers(register):
    register(Large)
'''


def write_gates(project, by_safetensors=False):
    project.pytester.makeconftest(CONFTEST.format(by_safetensors=by_safetensors))
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_small(): pass\n", name="test_a_small")
    project.test("@pytest.mark.quantize(method='large')\ndef test_large(): pass\n", name="test_b_large")
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_again(): pass\n", name="test_c_again")


def whole(cache: Path) -> int:
    return len(list(cache.glob("checkpoints/*")))


@pytest.mark.slow
@pytest.mark.parametrize("by_safetensors", [False, True], ids=["system", "safetensors"])
def test_a_quantizer_that_fills_the_disk(project, small_disk, by_safetensors):
    """The message names the folder and the option; the log has the traceback; nothing half-made stays."""
    cache = small_disk / "cache"
    write_gates(project, by_safetensors)
    result = project.run(f"--tenpak-cache-dir={cache}")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(
        [
            "*the worker process that should quantize ran out of disk space",
            f"*last lines of {cache}/jobs/quantize-*/log.txt",
            "*No space left on device*",
            f"*what to do: free space in {cache} (0.0* GiB free), or set --tenpak-cache-dir*",
        ]
    )
    assert whole(cache) == len(list(cache.glob(f"checkpoints/*/{MANIFEST}"))) == 1
    assert not list(cache.glob("checkpoints/.*"))
    assert project.baselines == ["test_a_small/test_small.json", "test_c_again/test_again.json"]


@pytest.mark.slow
def test_a_disk_that_is_full_already(project, small_disk):
    """Nothing can be written at all: gates that are answered from the cache pass, the other says why not."""
    cache = small_disk / "cache"
    write_gates(project)
    project.run(f"--tenpak-cache-dir={cache}", "test_a_small.py").assert_outcomes(passed=1)
    fill(small_disk / "filler")
    result = project.run(f"--tenpak-cache-dir={cache}")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(
        ["*test_large: *", "*given: *No space left on device*", "*what to do: *--tenpak-cache-dir*"]
    )
    assert whole(cache) == 1


def fill(file: Path) -> None:
    """Write until the disk takes no more byte."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def test_what_the_system_says_about_a_file():
    """A full disk and other faults each have their way out."""
    full = str(file_error(OSError(errno.ENOSPC, "No space left on device", "/x/y")))
    assert "no space is left on the disk" in full
    assert "'/x/y'" in full
    assert "--tenpak-cache-dir" in full
    assert "permissions" in str(file_error(PermissionError(errno.EACCES, "Permission denied", "/x/y")))

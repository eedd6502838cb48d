"""Which device a run measures on: what is remembered of the GPUs is remembered only for the same question."""

import os
import sys

import pytest

from pytest_tenpak.gate import device
from pytest_tenpak.gate.device import choose_device
from pytest_tenpak.store.store import Store


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A command nvidia-smi that lists what a file says, and what torch is then asked; gives the file."""
    listed = tmp_path / "listed"
    listed.write_text("GPU 0: NVIDIA H100\n")
    command = tmp_path / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nprint(open({str(listed)!r}).read())\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    for name in device._GPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return listed


@pytest.fixture
def probes(monkeypatch):
    """Let torch see two GPUs; gives a list that grows by each time it is asked."""
    asked = []

    def probe():
        asked.append(1)
        return {"gpus": [["cuda-sm90", "NVIDIA H100"], ["cuda-sm80", "NVIDIA A100"]]}

    monkeypatch.setattr(device, "_probe", probe)
    return asked


def test_torch_is_asked_once_for_the_same_gpus(driver, probes, tmp_path):
    """A second run has its answer from the cache."""
    for _ in range(2):
        assert choose_device("cuda:1", Store(tmp_path / "cache")).device_class == "cuda-sm80"
    assert len(probes) == 1


@pytest.mark.parametrize("name", device._GPU_VARIABLES)
def test_what_hides_gpus_asks_torch_again(driver, probes, tmp_path, monkeypatch, name):
    """A run that sees one GPU of eight says nothing about one that sees all, and the other way round."""
    choose_device("cuda", Store(tmp_path / "cache"))
    monkeypatch.setenv(name, "0")
    choose_device("cuda", Store(tmp_path / "cache"))
    assert len(probes) == 2


def test_a_gpu_that_was_split_asks_torch_again(driver, probes, tmp_path):
    """Instances of a GPU (MIG) are in the driver's list."""
    choose_device("cuda", Store(tmp_path / "cache"))
    driver.write_text("GPU 0: NVIDIA H100\n  MIG 1g.10gb Device 0\n")
    choose_device("cuda", Store(tmp_path / "cache"))
    assert len(probes) == 2


def test_a_gpu_that_is_busy_is_not_remembered_as_none(driver, tmp_path, monkeypatch):
    """Or every later run would measure on the CPU without a word."""
    monkeypatch.setattr(device, "_PROBE", "raise SystemExit('busy')")
    assert choose_device("auto", Store(tmp_path / "cache")).family == "cpu"
    monkeypatch.setattr(device, "_PROBE", "print('cuda-sm90|NVIDIA H100')")
    assert choose_device("auto", Store(tmp_path / "cache")).name == "NVIDIA H100"

"""Which device a run measures on: what is remembered of the GPUs is remembered only for the same question."""

import os

import pytest

from pytest_tenpak.errors import SpecError, UnavailableError
from pytest_tenpak.machines import device
from pytest_tenpak.machines.device import choose_device, parse_device
from pytest_tenpak.store.store import Store


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A command nvidia-smi that lists what a file says, and what torch is then asked; gives the file."""
    listed = tmp_path / "listed"
    listed.write_text("GPU 0: NVIDIA H100\n")
    command = tmp_path / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\ncat '{listed}'\n")
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


# ------------------------------------------------------------ several devices


@pytest.fixture
def four(driver, monkeypatch, tmp_path):
    """A machine of three GPUs of one class, the second one of another; gives its cache."""
    rows = [["cuda-sm90", "NVIDIA H100"] for _ in range(4)]
    rows[1] = ["cuda-sm80", "NVIDIA A100"]
    monkeypatch.setattr(device, "_probe", lambda: {"gpus": rows})
    return Store(tmp_path / "cache")


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("auto", ("auto", ())),
        ("cpu", ("cpu", ())),
        ("cuda", ("cuda", ())),
        ("cuda:2", ("cuda", (2,))),
        ("cuda:0,1", ("cuda", (0, 1))),
        ("cuda:3,0,2", ("cuda", (3, 0, 2))),
    ],
)
def test_devices_are_read_as_they_are_written(given, parsed):
    """In the order that was given: the first one takes the text."""
    assert parse_device(given) == parsed


@pytest.mark.parametrize(
    "given", ["gpu", "cpu:0", "auto:1", "cuda:", "cuda:x", "cuda:0,", "cuda:0,1,", "cuda:-1", "cuda:0,0"]
)
def test_what_is_no_list_of_devices_is_refused(given):
    """With what is accepted."""
    with pytest.raises(SpecError) as caught:
        parse_device(given)
    assert "cuda:0,1" in (caught.value.accepted or "")


def test_several_gpus_are_one_class_under_its_own_name(four):
    """Baselines know no other name for a spread model: its kernels are those of one GPU."""
    chosen = choose_device("cuda:2,0", four)
    assert (chosen.torch_name, chosen.devices, chosen.spread) == ("cuda:2", ("cuda:2", "cuda:0"), True)
    assert chosen.device_class == choose_device("cuda:2", four).device_class == "cuda-sm90"
    assert choose_device("cuda:2", four).devices == ("cuda:2",)


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_one_process_may_use_all_gpus_of_the_first_ones_class(four, wanted):
    """For what does not fit on one; a worker of xdist has its own."""
    chosen = choose_device(wanted, four)
    assert (chosen.devices, chosen.spread) == (("cuda:0", "cuda:2", "cuda:3"), False)
    workers = [choose_device(wanted, four, worker, 4).devices for worker in range(4)]
    assert workers == [("cuda:0",), ("cuda:1",), ("cuda:2",), ("cuda:3",)]


def test_devices_that_cannot_be_used_together_are_refused(four):
    """By several workers, of several classes, or that are not there."""
    with pytest.raises(SpecError, match="shared by all workers of xdist"):
        choose_device("cuda:0,2", four, 1, 2)
    with pytest.raises(SpecError, match="of several classes") as caught:
        choose_device("cuda:0,1", four)
    assert caught.value.given == "cuda:0 is cuda-sm90: NVIDIA H100, cuda:1 is cuda-sm80: NVIDIA A100"
    with pytest.raises(UnavailableError, match="there is no device 'cuda:0,7'"):
        choose_device("cuda:0,7", four)

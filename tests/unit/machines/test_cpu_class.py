"""The class of a CPU: by its flags, and by the variables that hold libraries to less."""

import pytest

from pytest_tenpak.machines import cpu_class as module
from pytest_tenpak.machines.cpu_class import cpu_class
from pytest_tenpak.metrics.device_class import X86

HASWELL = "fpu sse4_1 avx avx2 fma"
SKYLAKE = f"{HASWELL} avx512f avx512bw avx512dq avx512vl"
FLAGS = {
    "fpu sse4_1 avx": "cpu-x86-64",
    HASWELL: "cpu-avx2",
    SKYLAKE: "cpu-avx512",
    f"{SKYLAKE} avx512_bf16": "cpu-avx512_bf16",
    f"{SKYLAKE} avx512_bf16 amx_bf16": "cpu-amx",
}


@pytest.fixture
def machine(monkeypatch):
    """Make this a machine with these flags, held to nothing."""

    def become(flags, name="x86_64"):
        monkeypatch.setattr(module, "_flags", lambda: set(flags.split()) if flags is not None else None)
        monkeypatch.setattr(module.platform, "machine", lambda: name)
        module._of_the_machine.cache_clear()

    for variable in module._HELD:
        monkeypatch.delenv(variable, raising=False)
    yield become
    module._of_the_machine.cache_clear()


@pytest.mark.parametrize(("flags", "expected"), FLAGS.items(), ids=FLAGS.values())
def test_a_cpu_is_of_the_best_class_whose_instructions_it_has(machine, flags, expected):
    """As /proc/cpuinfo lists them."""
    machine(flags)
    assert cpu_class() == expected


def test_other_cpus_have_classes_of_their_own(machine):
    """Arm, and what nothing is known of."""
    machine(None, "aarch64")
    assert cpu_class() == "cpu-arm64"
    machine(None, "riscv64")
    assert cpu_class() == "cpu"
    machine(None)
    assert cpu_class() == "cpu", "no /proc/cpuinfo"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ATEN_CPU_CAPABILITY", "avx2", "cpu-avx2"),
        ("ATEN_CPU_CAPABILITY", "default", "cpu-x86-64"),
        ("ATEN_CPU_CAPABILITY", "avx512", "cpu-amx"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "cpu-avx2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", "cpu-avx512"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "cpu-avx512_bf16"),
        ("ONEDNN_MAX_CPU_ISA", "ALL", "cpu-amx"),
        ("DNNL_MAX_CPU_ISA", "SSE41", "cpu-x86-64"),
    ],
)
def test_a_cpu_that_is_held_to_less_is_of_that_class(machine, monkeypatch, name, value, expected):
    """By the switches of torch and of oneDNN; no switch makes it more than it is."""
    machine(f"{SKYLAKE} avx512_bf16 amx_bf16")
    monkeypatch.setenv(name, value)
    assert cpu_class() == expected
    machine("fpu sse4_1 avx")
    assert cpu_class() == "cpu-x86-64"


def test_this_machine_is_of_a_class():
    """Whatever it is."""
    assert cpu_class() in (*X86, "cpu-arm64", "cpu")

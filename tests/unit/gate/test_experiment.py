"""Cache keys of checkpoints and of measured windows: what makes them anew, and what does not."""

import os
import time
from types import SimpleNamespace

import pytest
from made_up import case

from pytest_tenpak.evaluation.corpus import Corpus
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.gate import experiment as module
from pytest_tenpak.gate.experiment import Experiment, Subject
from pytest_tenpak.machines.device import KERNEL_VARIABLES, Device
from pytest_tenpak.models.model import Model
from pytest_tenpak.quantizers import interpreters
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.store.store import Store

NF4 = Registry()["nf4"]

#: Files that some loader reads from a directory of weights.
READ = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/tool.jinja",
    "quantize_config.json",
    "quant_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "recipe.yaml",
)


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    """NF4 on CPU, of a model that is one config file."""
    path = tmp_path / "model"
    path.mkdir()
    for name in READ:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("{}")
    run = SimpleNamespace(
        store=Store(tmp_path / "cache"), batch_size=8, interpreters=interpreters.Interpreters({})
    )
    return Experiment(
        case=case(),
        run=run,
        device=Device("cpu", "cpu", "some processor"),
        model=Model(path, "sha256:model", "sha256:tokenizer", {}),
        corpus=Corpus("text", ["words"]),
        calibration=None,
        protocol=Protocol.resolve("contiguous", 64, None, 128),
    )


@pytest.fixture
def keys(experiment, monkeypatch):
    """Give the cache keys of the case: of its checkpoint, and of that one's windows."""
    asked = []

    def directory(kind, key, make):
        asked.append(key)
        return SimpleNamespace(path=experiment.model.path, facts={})

    def both(quantizer=NF4):
        monkeypatch.setattr(experiment.run.store, "directory", directory)
        subject = experiment.quantize(quantizer)
        return asked[-1], experiment.cache_key(Subject("checkpoint", subject.directory, quantizer))

    return both


def with_version(monkeypatch, name: str, version: str) -> None:
    """Make one distribution look as if another version of it were installed."""
    installed = interpreters._version
    monkeypatch.setattr(
        interpreters, "_version", lambda asked: version if asked == name else installed(asked)
    )


def test_a_release_of_the_plugin_makes_nothing_anew(keys, monkeypatch):
    """Its version is in no key: neither checkpoints nor windows are made again for a mended message."""
    before = keys()
    with_version(monkeypatch, "pytest-tenpak", "99.0")
    assert keys() == before


def test_another_library_makes_both_anew(keys, monkeypatch):
    """torch computes the figures, and the checkpoint."""
    before = keys()
    with_version(monkeypatch, "torch", "99.0")
    after = keys()
    assert (before[0] != after[0], before[1] != after[1]) == (True, True)


def test_another_version_of_the_adapter_makes_both_anew(keys, monkeypatch):
    """Somebody decided that its code makes, or loads, other checkpoints."""
    before = keys()
    monkeypatch.setattr(type(NF4), "adapter_version", 99)
    after = keys()
    assert (before[0] != after[0], before[1] != after[1]) == (True, True)


def test_another_metrics_version_makes_only_windows_anew(keys, monkeypatch):
    """The checkpoint is the same; what is computed of it is not."""
    before = keys()
    monkeypatch.setattr(module, "METRICS_VERSION", 99)
    after = keys()
    assert (before[0] == after[0], before[1] != after[1]) == (True, True)


def test_the_source_of_a_method_of_another_package_counts(keys, tmp_path, monkeypatch):
    """Nobody there decides about versions: any change to the file makes its checkpoints anew."""
    source = tmp_path / "theirs.py"
    source.write_text(
        "from pytest_tenpak import Quantizer\n"
        "class Theirs(Quantizer):\n"
        "    method = 'nf4'\n"
        "    def quantize(self, job): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from theirs import Theirs

    before = keys(Theirs())
    source.write_text(source.read_text() + "\nMORE = 1\n")
    assert keys(Theirs())[0] != before[0]


def test_every_byte_of_every_file_that_a_loader_reads_counts(keys, experiment):
    """Other bytes, as many as before and of the same time: checkpoint and windows are made anew."""
    before = keys()
    time.sleep(0.06)
    for name in READ:
        file = experiment.model.path / name
        times = file.stat()
        file.write_bytes(b"[]")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        after = keys()
        assert (before[0] != after[0], before[1] != after[1]) == (True, True), name
        before = after


@pytest.mark.parametrize("name", KERNEL_VARIABLES)
def test_what_chooses_kernels_counts(keys, monkeypatch, name):
    """A run with slower or less precise kernels is not answered with the figures of the others."""
    monkeypatch.delenv(name, raising=False)
    before = keys()
    monkeypatch.setenv(name, "1")
    after = keys()
    assert (before[0] != after[0], before[1] != after[1]) == (True, True)


def test_what_no_loader_reads_does_not_count(keys, experiment):
    """Code that is never run, and hidden files of version control and downloads."""
    before = keys()
    for name in ("modeling_own.py", ".gitattributes"):
        (experiment.model.path / name).write_text("other")
    assert keys() == before

"""A cache that cannot lie: whatever changed in the files of a checkpoint, the verdict is that of an empty cache."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pytest_tenpak.models.safetensors_files import INDEX

pytestmark = pytest.mark.slow
SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]


def swap(text: bytes, old: bytes, new: bytes) -> bytes:
    """The text with one passage changed into another of the same length."""
    assert len(old) == len(new)
    assert old in text
    return text.replace(old, new, 1)


def noised(content: bytes) -> bytes:
    """Bytes in the middle of the tensors changed: noise on one layer."""
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 0x40 for byte in content[middle : middle + 4000])
        + content[middle + 4000 :]
    )


#: Of every file that a loader reads, a change of as many bytes, and whether it is one that a gate has to see.
CHANGES = {
    SHARDS[0]: noised,
    SHARDS[1]: noised,
    INDEX: lambda text: swap(
        text, b'"model.layers.0.mlp.up_proj.weight"', b'"model.layers.9.mlp.up_proj.weight"'
    ),
    "config.json": lambda text: swap(text, b'"rope_theta": 10000.0', b'"rope_theta": 30.0000'),
    "generation_config.json": lambda text: swap(text, b'"eos_token_id": 257', b'"eos_token_id": 251'),
    "tokenizer.json": lambda text: swap(text, b'"use_regex": true', b'"use_regex":false'),
    "tokenizer_config.json": lambda text: swap(text, b'"</s>"', b'"<s>" '),
}


@pytest.fixture
def checkpoint(project):
    """A copy of the model in two shards with an index, gated as a checkpoint with a cache of its own."""
    folder = project.path / "ck"
    shutil.copytree(project.model, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    named = {}
    for file, some in zip(SHARDS, (names[: len(names) // 2], names[len(names) // 2 :]), strict=True):
        save_file({name: tensors[name] for name in some}, folder / file, {"format": "pt"})
        named |= dict.fromkeys(some, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}))
    project.test("@pytest.mark.quantize(checkpoint='ck', max_tokens=600)\ndef test_it(): pass\n")
    return folder


def replace(file, content: bytes) -> None:
    """Write a file as an archive or a store does: of equal size, with the old modification time."""
    times = file.stat()
    assert times.st_size == len(content)
    time.sleep(0.1)
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def verdict(project, cache) -> dict:
    """What a run with this cache says, without what differs from run to run."""
    project.ini(**{**project.settings, "cache_dir": cache})
    project.run("--tenpak-json=out.json")
    [outcome] = json.loads((project.path / "out.json").read_text())["outcomes"]
    figures = outcome["figures"] or {}
    checks = [(one["name"], one["status"], one["value"]) for one in outcome["verdict"]["checks"]]
    problem = outcome["problem"].splitlines()[:1]
    return {"checks": checks, "perplexity": figures.get("perplexity"), "problem": problem}


def with_reference_alone(project) -> Path:
    """A cache with the figures of the unquantized model, which stays as it is, and nothing of the checkpoint."""
    cache = project.path / "reference"
    shutil.copytree(project.model, project.path / "other")
    project.test(
        "@pytest.mark.quantize(checkpoint='other', max_tokens=600, max_reference_nll=0.001)\ndef test_it(): pass\n",
        name="test_other",
    )
    project.ini(**{**project.settings, "cache_dir": cache})
    result = project.run("test_other.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the unquantized model cannot predict this text*"])
    (project.path / "test_other.py").unlink()
    return cache


def test_the_verdict_is_that_of_an_empty_cache(project, checkpoint):
    """In both orders, for a change of any file that a loader reads; the baseline is that of the healthy one."""
    healthy = {name: (checkpoint / name).read_bytes() for name in CHANGES}
    empty = with_reference_alone(project)

    def look(name: str | None, cache: str) -> dict:
        """What is said of the checkpoint with this file damaged, and all others healthy."""
        for file, content in healthy.items():
            wanted = CHANGES[file](content) if file == name else content
            if (checkpoint / file).read_bytes() != wanted:
                replace(checkpoint / file, wanted)
        if not (project.path / cache).exists():
            shutil.copytree(empty, project.path / cache)
        return verdict(project, project.path / cache)

    look(None, "cache-None")
    truth = {name: look(name, f"empty-{number}") for number, name in enumerate([None, *CHANGES])}
    assert all(truth[name] != truth[None] for name in CHANGES), "figures show it, or the audit does"
    for order in ([None, *CHANGES, None], [*CHANGES, None, *CHANGES]):
        for name in order:
            assert look(name, f"cache-{order[0]}") == truth[name], (name, order[0])

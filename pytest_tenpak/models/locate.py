"""Where a model is: a directory, a GGUF file, a file in an installed package, or on the hub."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from ..errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
#: Where the hub's cache has a commit of a repository.
_SNAPSHOT = re.compile(r"/models--([\w.-]+)/snapshots/([0-9a-f]{40})$")
#: Files of a model, besides its tokenizer's.
_WANTED = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
#: A tokenizer has at least one of these files.
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
#: Files of a tokenizer, which are copied into a checkpoint.
TOKENIZER_FILES = (
    *VOCABULARIES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
#: What may be given as a model, for messages.
FORMS = (
    "a directory with config.json, *.safetensors and a tokenizer; a .gguf file; package:NAME/FILE.gguf; "
    "a hub id"
)


def locate_model(reference: str, root: Path) -> Path:
    """Return the directory or GGUF file that ``reference`` names; relative paths start at ``root``.

    A hub id is downloaded into the hub's own cache. Raises ModelError for what does not exist.
    """
    path = installed_file(reference) or root / Path(reference).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise ModelError(f"the model {reference!r} is a file of unknown format", given=path, accepted=FORMS)
    if path.suffix == ".gguf" or not _HUB_ID.fullmatch(reference):
        raise ModelError(f"there is no model {reference!r}", given=f"{path} does not exist", accepted=FORMS)
    return _download(reference, path)


def own_copy(path: Path) -> Path | None:
    """Return this machine's copy of what another one has from the hub at ``path``; None for other paths.

    It is the same commit, downloaded unless it is here. Raises ModelError where that fails.
    """
    match = _SNAPSHOT.search(path.as_posix())
    return _download(f"{match[1].replace('--', '/')}@{match[2]}", path) if match else None


def _download(reference: str, tried: Path) -> Path:
    import huggingface_hub

    name, _, revision = reference.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[*_WANTED, *TOKENIZER_FILES]
        )
    except Exception as fault:  # the hub client's errors have no common base
        raise ModelError(
            f"there is no model {reference!r}, neither as a directory nor on the hub",
            given=f"{tried} does not exist; hub: {type(fault).__name__}: {str(fault).splitlines()[0][:200]}",
            accepted=FORMS,
            remedy="correct the path, or download the model elsewhere and pass its directory",
        ) from None
    return Path(folder)


def installed_file(reference: str) -> Path | None:
    """Return the file that ``package:NAME/FILE`` names, without importing it; None for another form."""
    if not reference.startswith("package:"):
        return None
    package, _, inner = reference.removeprefix("package:").partition("/")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        return Path(f"<package {package} is not installed>") / inner
    return Path(next(iter(found.submodule_search_locations))) / inner

"""Names of baselines: from a test's id, portable on every file system."""

from __future__ import annotations

import hashlib
import re


def portable_name(text: str) -> str:
    """Return ``text`` as a portable file name; a digest distinguishes names that were changed or cut."""
    plain = re.sub(r"[^\w.=,+-]", "_", text, flags=re.ASCII)[:100].lstrip(".") or "_"
    return plain if plain == text else f"{plain}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def derived_name(nodeid: str) -> str:
    """Return the name of a test's baseline where its marker names none."""
    file, _, test = nodeid.partition("::")
    folder = "/".join(portable_name(part) for part in file.removesuffix(".py").split("/"))
    return f"{folder}/{portable_name(test.replace('::', '.').replace('[', '--').removesuffix(']'))}"


def name_on(name: str, corpus: str) -> str:
    """Return the name of a baseline's sibling for a further text."""
    return f"{name}@{portable_name(corpus)}"

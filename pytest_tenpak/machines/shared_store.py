"""The store that machines share: opened from its URL, and its entries pushed, pulled and listed by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path, PurePath
from typing import NamedTuple

from ..errors import SpecError, UnavailableError
from ..evaluation.trace import Trace
from ..execution.carried import CarriedSubmission
from ..execution.carrier import Carrier
from ..execution.submission import Post
from ..progress import Progress
from ..spec import nearest
from ..store.asking import redacted
from ..store.layout import ENTRY, MANIFEST
from ..store.objects import Objects
from ..store.remote import DOCUMENTS, SHARED, Remote
from ..store.store import Store

#: Distributions behind the schemes that pip has to be told of; fsspec knows more.
_LIBRARIES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
_ACCEPTED = "s3://BUCKET/PREFIX, gs://…, az://…, file:///FOLDER, or what else fsspec knows"
_NAME = re.compile(r"([a-z]+)(?:/([0-9a-f]{4,32}))?")


def open_remote(
    url: str,
    *,
    writes: bool = True,
    show: Callable[[str], AbstractContextManager[Progress]] | None = None,
) -> Remote:
    """Return the store at a URL, as :func:`open_objects` opens it."""
    return Remote(open_objects(url), redacted(url), writes=writes, show=show)


def open_objects(url: str) -> Objects:
    """Return what is stored at a URL; nothing is asked of it yet.

    Raises SpecError for a URL that leads nowhere, UnavailableError where a library is missing.
    """
    shown = redacted(url)
    _require_shared(url, shown)
    scheme = url.partition("://")[0] if "://" in url else "file"
    library = _LIBRARIES.get(scheme)
    try:
        import fsspec

        # Neither what a folder held before nor the connection of another user of the same address.
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError:
        raise UnavailableError(
            "a library that the store needs is not installed",
            given=shown,
            remedy=f"pip install 'pytest-tenpak[store]' {library or '(and what fsspec needs for it)'}",
        ) from None
    except Exception as fault:
        # The library's words may quote the URL.
        raise SpecError(
            "the store's URL cannot be used",
            given=f"{shown}: {type(fault).__name__}",
            accepted=_ACCEPTED,
            remedy="correct the URL; credentials and options belong in the environment of its library",
        ) from None
    if not root.strip("/"):
        raise _nowhere("the store's URL names no bucket or folder", shown)
    return Objects(files, root, is_object_store=library is not None)


def carry_by(url: str, store: Store) -> Post:
    """Return what sends orders, and the files of ``store`` that they name, to the store at a URL.

    Raises SpecError for a URL with what may be secret in it: other machines see it among their processes.
    """
    if redacted(url) != url:
        raise SpecError(
            "jobs cannot travel by a store whose URL has a password, a query or a fragment",
            given=redacted(url),
            accepted="a plain URL",
            remedy="leave credentials and options to the environment of its library, on every machine",
            who="--tenpak-store",
        )
    return partial(CarriedSubmission, carrier=Carrier(open_objects(url), url), store=store, url=url)


def _require_shared(url: str, shown: str) -> None:
    """Raise SpecError for what a library would take for a folder below the current one, or keep to itself."""
    scheme, found, rest = url.partition("://")
    folder = rest if scheme in ("file", "local") else url if not found else None
    if folder is not None and not PurePath(folder).is_absolute():
        raise _nowhere("the store is no URL, and no folder by its whole path", shown)
    if scheme == "memory":
        raise _nowhere("the store is memory of one process, which no machine shares", shown)


def _nowhere(problem: str, shown: str) -> SpecError:
    remedy = "name a bucket with what machines share in it, or a folder of a network mount"
    return SpecError(problem, given=repr(shown), accepted=_ACCEPTED, remedy=remedy)


class Moved(NamedTuple):
    """What became of one entry: whether it was pushed or fetched, or was there already."""

    kind: str
    key: str
    moved: bool


def push_entries(store: Store, names: Iterable[str]) -> Iterator[Moved]:
    """Push the whole entries of the cache, or those with these names (``KIND`` or ``KIND/KEY…``), one by one.

    Documents, which a run makes and pushes in passing, are left out. Raises SpecError for a name of none.
    """
    found = [
        (path.parent.name, path.name)
        for kind in sorted(SHARED - DOCUMENTS)
        for path in sorted((store.root / kind).glob("*"))
        if ENTRY.fullmatch(path.name) and (path / MANIFEST).is_file()
    ]
    for kind, key in _named(found, names):
        path = store.root / kind / key
        if kind != "traces":
            yield Moved(kind, key, store.push(path))
        elif count := Trace(path).count:
            yield Moved(kind, key, store.push(path, Trace(path).lasting, count))


def pull_entries(store: Store, names: Iterable[str]) -> Iterator[Moved]:
    """Fetch the store's entries, or those with these names, as far as the cache does not have them."""
    assert store.remote is not None
    found = [(one.kind, one.key) for one in store.remote.entries() if one.length is not None]
    for kind, key in _named([one for one in found if one[0] in SHARED], names):
        yield Moved(kind, key, store.pull(kind, key, measured if kind == "traces" else None))


def measured(folder: Path) -> int:
    """Return how many windows a trace's folder holds."""
    return Trace(folder).count


def _named(found: list[tuple[str, str]], names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the entries with these names, all where none is given; raise SpecError for a name of none."""
    wanted = []
    for name in names:
        match = _NAME.fullmatch(name)
        fits = [one for one in found if match and one[0] == match[1] and one[1].startswith(match[2] or "")]
        if not fits:
            known = [f"{kind}/{key}" for kind, key in found]
            raise SpecError(
                f"there is no entry {name!r}{nearest(name, known)}",
                given=name,
                accepted="KIND, or KIND/KEY with at least four digits of the key",
            )
        wanted += fits
    return sorted({*wanted}) if wanted else found

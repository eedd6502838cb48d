"""Several runs as one: the shards of a CI matrix, each with some of the gates, or all on its machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..gate.outcome import Outcome
from ..gate.summary import Summary


def merge(shards: Mapping[str, Summary]) -> Summary:
    """Merge runs, given by the names of their shards.

    A gate on which shards differ (other figures, another device, or one of them does not have it) is listed
    once for each shard, with the shard in its title. No outcome replaces another.
    """
    by_title: dict[str, dict[str, Outcome | None]] = {}
    for shard, summary in shards.items():
        known = {outcome.title: outcome for outcome in summary.outcomes}
        for title in {*summary.expected, *known}:
            by_title.setdefault(title, {})[shard] = known.get(title)
    outcomes: list[Outcome] = []
    expected: list[str] = []
    for title, by_shard in by_title.items():
        differ = any(one != other for one in by_shard.values() for other in by_shard.values())
        for shard, outcome in by_shard.items() if differ else list(by_shard.items())[:1]:
            if outcome is not None and differ:
                outcome = replace(outcome, shard=" ".join(filter(None, (outcome.shard, shard))))
            expected.append(outcome.title if outcome else f"{title} ({shard})" if differ else title)
            outcomes += [outcome] if outcome else []
    rules = {summary.rule for summary in shards.values()}
    return Summary(
        outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.title)),
        expected=tuple(sorted(expected)),
        written=_unique(name for summary in shards.values() for name in summary.written),
        unused=_unused(list(shards.values())),
        problems=tuple(_problems(shards)),
        trends={name: row for summary in shards.values() for name, row in summary.trends.items()},
        rule=rules.pop() if len(rules) == 1 else None,
    )


def _problems(shards: Mapping[str, Summary]) -> list[str]:
    """What went wrong in the shards, and the gates that ran in none: somewhere each has to."""
    problems = [f"{shard}: {problem}" for shard, one in shards.items() for problem in one.problems]
    outcomes = [outcome for one in shards.values() for outcome in one.outcomes]
    ran = {outcome.case.nodeid for outcome in outcomes if not outcome.skipped}
    skipped = dict.fromkeys(outcome.case.nodeid for outcome in outcomes if outcome.skipped)
    return problems + [f"{nodeid} was skipped in every shard" for nodeid in skipped if nodeid not in ran]


def shard_names(paths: Sequence[Path]) -> dict[str, Path]:
    """The files by what tells their paths apart: the file's name, with as many folders as that takes."""
    given = {path.resolve(): path for path in paths}
    files = list(given)
    for depth in range(1, max(len(file.parts) for file in files) + 1):
        names = ["/".join(file.parts[-depth:]).removesuffix(".json") for file in files]
        if len(set(names)) == len(files):
            return dict(zip(names, given.values(), strict=True))
    return {str(file): path for file, path in given.items()}


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _unused(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """What every shard found unused: the gates of one are not those of another."""
    return tuple(name for name in summaries[0].unused if all(name in other.unused for other in summaries))

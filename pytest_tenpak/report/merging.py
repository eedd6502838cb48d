"""Several runs as one: the shards of a CI matrix, each with some of the gates, or all on its machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..outcome import Outcome
from .summary import Summary


def merge(shards: Mapping[str, Summary]) -> Summary:
    """The runs, by their shards' names, as one.

    A gate about which shards differ (other figures, another device, or one never heard of it) is there once
    for each of them, its title naming the shard. Nothing overwrites anything.
    """
    told: dict[str, dict[str, Outcome | None]] = {}
    for shard, summary in shards.items():
        heard = {outcome.title: outcome for outcome in summary.outcomes}
        for title in {*summary.expected, *heard}:
            told.setdefault(title, {})[shard] = heard.get(title)
    outcomes: list[Outcome] = []
    expected: list[str] = []
    for title, by_shard in told.items():
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
        stale=_stale(list(shards.values())),
        problems=tuple(f"{shard}: {problem}" for shard, one in shards.items() for problem in one.problems),
        trends={name: row for summary in shards.values() for name, row in summary.trends.items()},
        rule=rules.pop() if len(rules) == 1 else None,
    )


def ran_well(summary: Summary) -> bool:
    """Whether every gate that was expected ran, in one shard at least, and passed in all where it did."""
    ran = {outcome.case.nodeid for outcome in summary.outcomes if not outcome.skipped}
    return not (summary.missing or summary.problems) and all(
        outcome.case.nodeid in ran if outcome.skipped else outcome.passes for outcome in summary.outcomes
    )


def shard_names(paths: Sequence[Path]) -> dict[str, Path]:
    """The files by what tells their paths apart: the file's name, with as many folders as that takes."""
    parts = [path.resolve().with_suffix("").parts for path in dict.fromkeys(paths)]
    depth = next(
        (depth for depth in range(1, max(map(len, parts))) if _all_differ(row[-depth:] for row in parts)), 0
    )
    return {"/".join(row[-depth:]): path for row, path in zip(parts, dict.fromkeys(paths), strict=True)}


def _all_differ(rows: Iterable[tuple[str, ...]]) -> bool:
    seen = list(rows)
    return len(set(seen)) == len(seen)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _stale(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """What every shard found stale: the gates of one are not those of another."""
    return tuple(name for name in summaries[0].stale if all(name in other.stale for other in summaries))

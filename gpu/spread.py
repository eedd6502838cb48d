"""The same measurement in two processes: whether a device gives the same figures, or how far apart."""

from __future__ import annotations

import json
import subprocess
import sys

from measured import arguments, read_text, windows_of

_WORDS = __doc__ or ""


def measure() -> None:
    """Print the sums of windows as JSON: the work of one process."""
    from pytest_tenpak.evaluation.perplexity import measure_windows
    from pytest_tenpak.quantizers.loading import load_pretrained

    given = arguments(_WORDS)
    dtype = "bfloat16" if given.device.startswith("cuda") else "float32"
    context, count = (64, 8) if given.quick else (512, 64)
    ids, windows = windows_of(read_text(given.model, context, count))
    found = measure_windows(load_pretrained(given.model, given.device, dtype), ids, windows)
    figures = {"nll": found.nll, "perplexity": found.perplexity, "tokens": found.total_tokens, "dtype": dtype}
    print(json.dumps(figures))


def main() -> None:
    """Measure in two processes at once, and write how far apart they are as JSON."""
    given = arguments(_WORDS)
    code = "import spread; spread.measure()"
    command = [sys.executable, "-c", code, *sys.argv[1:]]
    folder = sys.path[0]
    both = [subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    one, other = (json.loads(process.communicate()[0].splitlines()[-1]) for process in both)
    figures = {
        "perplexities": [one["perplexity"], other["perplexity"]],
        "differing_windows": sum(a != b for a, b in zip(one["nll"], other["nll"], strict=True)),
        "windows": len(one["nll"]),
        "tokens": one["tokens"],
        "dtype": one["dtype"],
    }
    given.out.write_text(json.dumps(figures), encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

"""The proof's page: everything that was measured, and what was not and why."""

import pytest
from tables import document, table

ROW = {
    "name": "pytest-tenpak",
    "tokens_per_second": 36123.4,
    "ratio": 0.9571,
    "lowest": 0.95,
    "highest": 0.96,
    "peak_bytes": 512 << 20,
    "waits": 4,
    "perplexity": 128000.25,
    "seconds": 2.0,
    "busiest": [{"name": "gemm | bf16", "calls": 64, "seconds": 1.5}],
}
FIGURES = {
    "machine": {"GPU": "NVIDIA H100", "driver": "580.1"},
    "nf4": {
        "status": "new",
        "reference_perplexity": 53.887,
        "perplexity": 68.1406,
        "ppl_delta": 0.2645,
        "kld": 0.21,
        "whole_vs_16bit": 2.31,
        "quantizing_seconds": 3.25,
        "peak_cuda_bytes": 700 << 20,
    },
    "again": {"gates": ["nf4", "int8"], "seconds": 6.5, "made": []},
    "evaluator": {
        "model": "Llama of 8B shapes",
        "dtype": "bfloat16",
        "rounds": 5,
        "windows": 16,
        "context": 2048,
        "rows": [ROW],
        "missing": {"lm-eval": "ModuleNotFoundError: no lm_eval"},
    },
    "spread": {
        "perplexities": [40.25, 40.250001],
        "tokens": 32768,
        "dtype": "bfloat16",
        "differing_windows": 3,
        "windows": 64,
    },
}


def proof(**changed):
    """What prove.py writes, with some steps changed."""
    steps = [
        {
            "name": name,
            "what": f"what {name} is",
            "limit": 40,
            "seconds": 12.34,
            "status": "passed",
            "log": "",
        }
        | {"figures": figures}
        | changed.get(name, {})
        for name, figures in FIGURES.items()
    ]
    return {
        "device": "cuda",
        "quick": False,
        "seconds": 301.2,
        "limit": 470,
        "gates": ["nf4", "awq"],
        "steps": steps,
    }


@pytest.mark.parametrize(
    "shown",
    [
        "5 of 5 steps passed, 301 s of at most 470 s, on cuda.",
        "| GPU | NVIDIA H100 |",
        "| nf4 | what nf4 is | passed | 12.3 | 40 |",
        "| nf4 | new | 53.8870 | 68.1406 | +26.45% | 0.21000 | 2.31× | 3.2 | 700 | 12.3 |",
        "nf4, int8 again, from the cache: 6.5 s, nothing made.",
        "| gemm \\| bf16 | 64 | 75.0% |",
        "| pytest-tenpak | 36,123 | 0.957 | 0.950 … 0.960 | 512 | 4 | 128000.250 |",
        "lm-eval is not reachable here: ModuleNotFoundError: no lm_eval",
        "perplexity 40.25 and 40.250001, 2.5e-08 apart; 3 of 64 windows differ.",
    ],
)
def test_the_page_has_every_figure(shown):
    """Each in its table."""
    assert shown in document(proof())


def test_what_failed_is_said_with_the_end_of_its_log():
    """In the steps' table, in the gate's row, and below."""
    page = document(proof(nf4={"status": "stopped at its limit", "figures": {}, "log": "compiling marlin"}))
    assert "4 of 5 steps passed" in page
    assert "| nf4 | stopped at its limit |  |  |" in page
    assert "### nf4: stopped at its limit\n\n```\ncompiling marlin\n```" in page


def test_what_was_made_in_a_cached_run_is_said():
    """It should be nothing."""
    again = {"gates": ["nf4"], "seconds": 30.0, "made": ["traces/x", "traces/y"]}
    assert "from the cache: 30.0 s, 2 files made." in document(proof(again={"figures": again}))


def test_a_proof_that_has_just_begun_has_a_page_too():
    """Whatever is there after the first step."""
    page = document({**proof(), "steps": proof()["steps"][:1]})
    assert "1 of 1 steps passed" in page
    assert "Δ" not in page


def test_a_quick_run_says_that_its_speed_means_nothing():
    """Or somebody would quote it."""
    assert "say nothing about speed" in document({**proof(), "quick": True, "device": "cpu"})


def test_cells_cannot_break_a_table():
    """Bars and line ends of messages."""
    assert table(["a"], [["x|y\nz"]]).splitlines()[-1] == "| x\\|y z |"

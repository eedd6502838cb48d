"""A large corpus: a budget reads the part that it needs, once, and every report says which."""

import json

import pytest

from pytest_tenpak.evaluation.corpus import WHOLE, load_corpus, part_for

BUDGET = 630


@pytest.mark.parametrize("name", ["large.txt", pytest.param("large.jsonl", marks=pytest.mark.slow)])
def test_a_budget_uses_a_part_of_a_large_text_and_tokenizes_it_once(project, name):
    """Terminal, JSON report and baseline say which; reference and checkpoint share its tokens.

    A second run compares on the part, whatever follows it in the file, and with damaged files in the cache.
    """
    text, file, cache = (project.path / "text.txt").read_text(), project.path / name, project.path / "cache"
    row = text if name.endswith(".txt") else json.dumps({"text": text}) + "\n"
    file.write_text(row * (1 + WHOLE // len(text)))
    project.ini(**{**project.settings, "corpus": name, "max_tokens": BUDGET, "cache_dir": cache})
    project.test("@pytest.mark.quantize(method='nf4')\ndef test_it(): pass\n")
    result = project.run("--tenpak-json=run.json")
    result.assert_outcomes(passed=1)

    used = load_corpus(name, project.path, BUDGET)
    assert part_for(BUDGET) - 2000 < used.part <= part_for(BUDGET)
    said = f"of {name} its first {used.part:,} characters were used ({used.digest[:19]}…)"
    assert said in " ".join(" ".join(result.outlines).split())
    (outcome,) = json.loads((project.path / "run.json").read_text())["outcomes"]
    assert outcome["parts"][0]["corpus_part"] == used.part
    (baseline,) = (project.path / "baselines").rglob("*.json")
    (entry,) = json.loads(baseline.read_text())["entries"].values()
    assert (entry["identity"]["corpus"], entry["identity"]["corpus_part"]) == (used.digest, used.part)

    (tokens,), (kept,) = cache.glob("tokens/*/*.npz"), cache.glob("texts/*/documents.txt")
    assert kept.read_text() == "".join(used.documents)
    for damaged in (tokens, kept):
        damaged.write_bytes(damaged.read_bytes()[:-1])
    for window in cache.glob("traces/*/*"):
        window.unlink()
    with file.open("a") as stream:
        stream.write("not even read")
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*nf4* 0.00% *passed"])
    assert (list(cache.glob("tokens/*/*.npz")), list(cache.glob("texts/*/documents.txt"))) == (
        [tokens],
        [kept],
    )
    assert kept.read_text() == "".join(used.documents)

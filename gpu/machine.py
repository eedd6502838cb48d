"""Where the proof was run: GPU, driver, CUDA, versions of what figures depend on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTIONS = (
    "pytest-tenpak",
    "torch",
    "transformers",
    "bitsandbytes",
    "gptqmodel",
    "accelerate",
    "lm-eval",
)


def versions() -> dict[str, str]:
    """Return the version of each distribution that is there."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def gpu() -> dict[str, str]:
    """Return what torch and the driver say of the first GPU."""
    import torch

    facts = torch.cuda.get_device_properties(0)
    return {
        "GPU": facts.name,
        "GPU memory": f"{facts.total_memory / 2**30:.1f} GiB",
        "compute capability": f"{facts.major}.{facts.minor}",
        "driver": _driver(),
        "CUDA of torch": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }


def _driver() -> str:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "no nvidia-smi"
    command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return (ran.stdout.splitlines() or ["unknown"])[0]


def main() -> None:
    """Write the facts as JSON; a device that torch cannot use is an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("device")
    given = parser.parse_args()
    host = {"Python": platform.python_version(), "system": platform.platform(), "CPUs": str(os.cpu_count())}
    facts = {**(gpu() if given.device.startswith("cuda") else {}), **host, **versions()}
    given.out.write_text(json.dumps(facts), encoding="utf-8")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()

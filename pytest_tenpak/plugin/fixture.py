"""The value of the ``quantized`` fixture: the outcome, and the reloaded model on first use."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

from ..gate.generating import generate
from ..gate.outcome import Outcome
from ..gate.run import Run
from ..metrics.measurement import Measurement
from ..metrics.speed import Memory, Speed
from ..spec import CHECKPOINT
from ..verdict.checks import Verdict


class Quantized:
    """The quantized model of one case, saved and loaded again.

    ``generate`` asks a process of its own. ``model`` and ``tokenizer`` are loaded into pytest's process on
    first use, and given back when the test ends.
    """

    def __init__(self, outcome: Outcome, run: Run) -> None:
        self._outcome = outcome
        self._run = run

    @property
    def verdict(self) -> Verdict:
        """The gate's checks and their status."""
        return self._outcome.verdict

    @property
    def measurement(self) -> Measurement:
        """Perplexity by window, ledger, identity, provenance of the checkpoint."""
        return self._present(self._outcome.measurement)

    @property
    def reference(self) -> Measurement:
        """The same of the unquantized model."""
        return self._present(self._outcome.reference)

    @property
    def speed(self) -> Speed | None:
        """Tokens per second of both models by phase, where the marker has ``min_speedup``."""
        return self._outcome.speed

    @property
    def memory(self) -> Memory | None:
        """Peak memory of both models, where the marker has ``max_memory_ratio``."""
        return self._outcome.memory

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's directory."""
        self._present(self._outcome.measurement)
        return Path(self._outcome.checkpoint)

    @cached_property
    def model(self) -> Any:
        """The reloaded model, in evaluation mode, on the run's device.

        It is loaded into pytest's own process: a crash of its kernels ends the whole run, and what a backend
        patches stays patched. Its memory is given back when the test ends.
        """
        from ..quantizers.loading import load_pretrained

        spec = self._outcome.case.spec
        load = (
            load_pretrained
            if spec.method == CHECKPOINT
            else partial(self._run.registry[spec.method].load, spec)
        )
        return load(self.checkpoint, self._run.choose_device().torch_name, self.measurement.identity["dtype"])

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from ..quantizers.loading import load_tokenizer

        return load_tokenizer(self.checkpoint)

    @overload
    def generate(self, prompt: str, **options: Any) -> str: ...

    @overload
    def generate(self, prompt: Sequence[str], **options: Any) -> list[str]: ...

    def generate(self, prompt: str | Sequence[str], **options: Any) -> str | list[str]:
        """Generate text after a prompt, or after each of a list, and return it without the prompt.

        ``options`` go to transformers' ``generate``, for example ``max_new_tokens=8``; greedy by default. The
        process that measured the checkpoint answers, so that a crash, a hang or no memory is one failed test.
        Raises TenpakError.
        """
        self._present(self._outcome.measurement)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = generate(self._outcome, self._run, prompts, options)
        return texts[0] if isinstance(prompt, str) else texts

    def close(self) -> None:
        """Give back the memory of what was loaded into this process."""
        if self.__dict__.pop("model", None) is None:
            return
        from ..quantizers.loading import empty_gpu_cache

        gc.collect()
        empty_gpu_cache()

    def _present(self, value: Measurement | None) -> Measurement:
        if value is None:
            raise AttributeError(f"the case could not be measured:\n{self._outcome.problem}")
        return value

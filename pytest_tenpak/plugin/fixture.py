"""The value of the ``quantized`` fixture: the outcome, and the reloaded model on first use."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..gate.outcome import Outcome
from ..gate.run import Run
from ..metrics.measurement import Measurement
from ..spec import CHECKPOINT
from ..verdict.checks import Verdict


class Quantized:
    """The quantized model of one case, saved and loaded again.

    ``model`` and ``tokenizer`` are loaded from the checkpoint on first use; a test that only reads figures
    does not load them.
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
    def checkpoint(self) -> Path:
        """The checkpoint's directory."""
        self._present(self._outcome.measurement)
        return Path(self._outcome.checkpoint)

    @cached_property
    def model(self) -> Any:
        """The reloaded model, in evaluation mode, on the run's device."""
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

    def generate(self, prompt: str, **options: Any) -> str:
        """Generate text after ``prompt`` and return it without the prompt; greedy by default.

        ``options`` go to transformers' ``generate``, for example ``max_new_tokens=8``.
        """
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        ids = self.model.generate(**inputs, **{"do_sample": False, **options})
        text: str = self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    def _present(self, value: Measurement | None) -> Measurement:
        if value is None:
            raise AttributeError(f"the case could not be measured:\n{self._outcome.problem}")
        return value

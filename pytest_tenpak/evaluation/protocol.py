"""Evaluation protocols: which windows of a token stream are run, and which positions are scored.

``gptq`` follows the GPTQ paper's code (arXiv 2210.17323): the corpus joined and tokenized once,
adjacent windows, every position but the first scored, the rest of the text dropped.
``llamacpp`` follows llama.cpp's perplexity tool: context 512, the first token of each window replaced
by BOS, the second half scored. ``sliding`` is Hugging Face's strided recipe: overlapping windows in
which only positions that no earlier window scored count, to the last token of the text. ``rolling`` is
lm-eval's ``loglikelihood_rolling``: each document by itself after a prefix token, each of its tokens
scored once, and a last window that reaches back until it is as long as the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from ..errors import CorpusError, SpecError

PROTOCOLS = ("gptq", "llamacpp", "sliding", "rolling")
#: Documents of a corpus are joined with this before they are tokenized.
JOIN = "\n\n"
#: Which positions are scored, where BOS is put and how documents are joined, by protocol without a stride.
_WITHOUT_STRIDE = {
    "gptq": ("all-but-first", "tokenizer", JOIN),
    "llamacpp": ("second-half", "window", JOIN),
    "rolling": ("every", "document", ""),
}


class Window(NamedTuple):
    """Tokens ``start:stop`` of the stream; those from ``first_scored`` on are scored, in one forward pass.

    The last token is only predicted; all tokens before it are run.
    """

    start: int
    stop: int
    first_scored: int

    @property
    def scored(self) -> int:
        """How many tokens of this window are scored."""
        return self.stop - self.first_scored


def within(scored: Sequence[int], budget: int) -> int:
    """Return how many windows, of ``scored`` tokens each, a budget allows: at least one; 0 allows all."""
    if not budget:
        return len(scored)
    return max(1, sum(spent <= budget for spent in accumulate(scored)))


@dataclass(frozen=True)
class Protocol:
    """A protocol with every number filled in. Figures are comparable only within equal protocols.

    ``context`` counts a window's tokens; for ``rolling`` the tokens that are run, as lm-eval counts them.
    """

    name: str
    context: int
    stride: int
    scored: str
    bos: str
    join: str = JOIN

    @classmethod
    def resolve(cls, name: str, context: int | None, stride: int | None, model_maximum: int) -> Protocol:
        """Fill in a protocol for a model that takes at most ``model_maximum`` tokens.

        Raises SpecError when the context is longer than the model's maximum, or the stride does not
        belong to the protocol or exceeds the context.
        """
        default = 512 if name == "llamacpp" else 2048
        length = min(default, model_maximum) if context is None else context
        if length > model_maximum:
            raise SpecError(
                f"context={length} exceeds the model's context",
                given=length,
                accepted=f"at most {model_maximum} tokens (the model's maximum)",
                remedy="lower context, or leave it out",
            )
        if name in _WITHOUT_STRIDE:
            if stride not in (None, length):
                raise SpecError(
                    f"protocol {name!r} has adjacent windows and no stride",
                    given=f"stride={stride}",
                    accepted="stride only with protocol='sliding'",
                    remedy="use protocol='sliding', or leave stride out",
                )
            return cls(name, length, length, *_WITHOUT_STRIDE[name])
        step = max(1, length // 2) if stride is None else stride
        if step > length:
            raise SpecError(
                f"stride={step} exceeds the context and would leave tokens out",
                given=f"stride={step}, context={length}",
                accepted=f"1 to {length}",
                remedy="lower stride",
            )
        return cls(name, length, step, scored="new", bos="tokenizer")

    def windows(self, tokens: int, budget: int = 0, starts: Sequence[int] = (0,)) -> list[Window]:
        """Return the windows of a stream of ``tokens`` tokens, in order of the text.

        ``budget`` caps the scored tokens (0: none): the longest prefix of windows within it, at least
        one. A prefix is always a valid smaller run. ``starts`` are the positions at which documents
        begin, for the protocol that runs each by itself. Raises CorpusError when not even one fits.
        """
        if self.scored == "every":
            plan = [window for span in pairwise((*starts, tokens)) for window in self._rolling(*span)]
            least = 2
        else:
            plan = self._sliding(tokens) if self.scored == "new" else self._side_by_side(tokens)
            least = self.context
        if not plan or tokens < least:
            raise CorpusError(
                "the corpus is shorter than one window",
                given=f"{tokens} tokens",
                accepted=f"at least {least} tokens (protocol {self.name}, context {self.context})",
                remedy="give a longer corpus, or a smaller context",
            )
        return plan[: within([window.scored for window in plan], budget)]

    def _side_by_side(self, tokens: int) -> list[Window]:
        skipped = self.context // 2 + 1 if self.scored == "second-half" else 1
        starts = range(0, tokens - self.context + 1, self.context)
        return [Window(start, start + self.context, start + skipped) for start in starts]

    def _sliding(self, tokens: int) -> list[Window]:
        plan: list[Window] = []
        scored_to = 0
        for start in range(0, tokens, self.stride):
            stop = min(start + self.context, tokens)
            # A window's own first token has no context to be predicted from.
            first = max(scored_to, start + 1)
            if first < stop:
                plan.append(Window(start, stop, first))
            scored_to = stop
            if stop == tokens:
                break
        return plan

    def _rolling(self, begin: int, end: int) -> Iterator[Window]:
        """Yield the windows of one document, whose prefix token is at ``begin``.

        Windows score adjacent spans and run the ``context`` tokens before their last one, so a window holds
        one token more than it runs.
        """
        for first in range(begin + 1, end, self.context):
            stop = min(first + self.context, end)
            yield Window(max(begin, stop - self.context - 1), stop, first)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, part of a measurement's identity."""
        return asdict(self)

"""Calibration: what inputs a model's matrices get, and how much the likelihood depends on each weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ...models.decoder import removed_after
from ...progress import Progress
from .matrix import Statistics


def input_statistics(
    model: Any, modules: Mapping[str, Any], samples: Sequence[Sequence[int]], progress: Progress
) -> dict[str, Statistics]:
    """Run token ids through a model; return mean |x| and x² of the inputs of each module, in float32.

    Modules that no token reached (experts) have means of 1.
    """
    import torch

    sums: dict[str, list[Any]] = {name: [0, 0.0, 0.0] for name in modules}

    def watch(name: str) -> Any:
        def called(_: Any, args: tuple[Any, ...]) -> None:
            rows = args[0].detach().flatten(0, -2).float()
            row = sums[name]
            row[0] += len(rows)
            row[1] = row[1] + rows.abs().sum(0)
            row[2] = row[2] + rows.square().sum(0)

        return called

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    with removed_after(hooks), torch.inference_mode():
        for number, ids in enumerate(samples, start=1):
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            progress(number, len(samples), "samples")
    return {
        name: Statistics(*(_mean(total, count, modules[name]) for total in totals))
        for name, (count, *totals) in sums.items()
    }


def _mean(total: Any, count: int, module: Any) -> Any:
    from ..shapes import widths

    weight = module.weight
    return (total / count).clone() if count else weight.new_ones(widths(module)[0]).float()


def fisher_information(
    model: Any, modules: Mapping[str, Any], samples: Sequence[Sequence[int]], seed: int, progress: Progress
) -> dict[str, Any]:
    """Estimate the diagonal of the Fisher information of each module's weights, (outputs, inputs), float32.

    The mean over tokens of the squared gradient of the log-likelihood, of next tokens drawn from the model's
    own predictions: half its product with squared errors of weights is the KL divergence that they cause, to
    second order and without what pairs of weights cause together. One gradient by sequence: cross terms
    between its tokens are zero on average. Takes as much memory again as the weights in float32, twice.
    """
    import torch
    from torch.nn.functional import cross_entropy

    found = {name: torch.zeros_like(module.weight, dtype=torch.float32) for name, module in modules.items()}
    generator = torch.Generator().manual_seed(seed)
    with _gradients_of(model, modules, found):
        for number, ids in enumerate(samples, start=1):
            logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
            drawn = torch.multinomial(logits.detach().float().softmax(-1).cpu(), 1, generator=generator)
            cross_entropy(logits.float(), drawn[:, 0].to(logits.device), reduction="sum").backward()
            progress(number, len(samples), "samples")
    tokens = sum(map(len, samples))
    return {name: _outputs_first(modules[name], total / tokens) for name, total in found.items()}


@contextmanager
def _gradients_of(model: Any, modules: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[None]:
    """Have gradients of these modules' weights squared and added up as soon as each is known."""

    def adds_to(total: Any) -> Any:
        def known(weight: Any) -> None:
            total.add_(weight.grad.float().square())
            weight.grad = None

        return known

    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in needed:
        parameter.requires_grad_(False)
    hooks = []
    for name, module in modules.items():
        module.weight.requires_grad_(True)
        hooks.append(module.weight.register_post_accumulate_grad_hook(adds_to(found[name])))
    try:
        with removed_after(hooks):
            yield
    finally:
        for parameter, before in needed:
            parameter.requires_grad_(before)


def _outputs_first(module: Any, weights: Any) -> Any:
    return weights.T if type(module).__name__ == "Conv1D" else weights

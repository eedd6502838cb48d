"""Groups of weights on a grid of 16 values: codes, scales and zero points, and how they are packed."""

from __future__ import annotations

from typing import Any, NamedTuple

#: Codes of 4 bits; a symmetric grid has its zero in the middle, and uses one value less.
BITS, LEVELS, MIDDLE = 4, 16, 8
#: Shares of a group's range that the search for clipping tries.
_CLIPS = tuple(1 - step / 20 for step in range(1, 10))
#: The smallest scale that float16 holds, for groups that are all zero.
_LEAST_SCALE = 2.0**-24


class Groups(NamedTuple):
    """A matrix on the grid: ``group`` inputs of an output share a scale; a last group may be shorter.

    ``codes``: uint8 (outputs, inputs), 0 to 15. ``scales``: float16 (outputs, groups). ``zeros``: uint8
    (outputs, groups), the code that means zero, or None where that is 8 throughout.
    """

    codes: Any
    scales: Any
    zeros: Any
    group: int

    def weights(self) -> Any:
        """Return (code − zero) · scale, float32 (outputs, inputs)."""
        return dequantize(self.codes, self.scales, self.zeros, self.group)


def dequantize(codes: Any, scales: Any, zeros: Any, group: int) -> Any:
    """Return (code − zero) · scale of unpacked codes, float32 (outputs, inputs)."""
    width = codes.shape[1]
    grouped = split(codes.float(), group)
    zero = MIDDLE if zeros is None else zeros.float().unsqueeze(2)
    return ((grouped - zero) * scales.float().unsqueeze(2)).flatten(1)[:, :width]


def round_to_groups(
    weights: Any, group: int, *, sym: bool, clip: bool = False, importance: Any = None
) -> Groups:
    """Round a matrix (outputs, inputs) to the grid of its groups.

    With ``sym`` the scale is a group's largest magnitude / 7; else the grid spans least to largest weight,
    zero included. ``clip`` searches each group for the share of that range, from 1 down to 0.55, with the
    least squared error, in which ``importance`` weighs each weight (its shape, or one row for all).
    """
    import torch

    grouped = split(weights.float(), group)
    weigh = None if importance is None else split(importance.float().expand_as(weights), group)
    scales, zeros = _range(grouped, 1, sym)
    if clip:
        least = _error(grouped, scales, zeros, weigh)
        for share in _CLIPS:
            scale, zero = _range(grouped, share, sym)
            error = _error(grouped, scale, zero, weigh)
            better = error < least
            least = torch.where(better, error, least)
            scales, zeros = torch.where(better, scale, scales), torch.where(better, zero, zeros)
    codes = _codes(grouped, scales, zeros).flatten(1)[:, : weights.shape[1]]
    packed_zeros = None if sym else zeros.squeeze(2).to(torch.uint8)
    return Groups(codes.to(torch.uint8), scales.squeeze(2).half(), packed_zeros, group)


def _range(grouped: Any, share: float, sym: bool) -> tuple[Any, Any]:
    """Return scale, as float16 holds it, and zero point of each group."""
    import torch

    if sym:
        scale = grouped.abs().amax(2, keepdim=True) * share / (MIDDLE - 1)
        return _storable(scale), torch.full_like(scale, MIDDLE)
    low = grouped.amin(2, keepdim=True).clamp(max=0) * share
    high = grouped.amax(2, keepdim=True).clamp(min=0) * share
    scale = _storable((high - low) / (LEVELS - 1))
    return scale, (-low / scale).round().clamp(0, LEVELS - 1)


def _storable(scale: Any) -> Any:
    return scale.half().float().clamp(min=_LEAST_SCALE)


def _error(grouped: Any, scale: Any, zero: Any, importance: Any) -> Any:
    """Return the squared error of each group, (outputs, groups, 1)."""
    off = ((_codes(grouped, scale, zero) - zero) * scale - grouped).square()
    return (off if importance is None else off * importance).sum(2, keepdim=True)


def _codes(grouped: Any, scale: Any, zero: Any) -> Any:
    return ((grouped / scale).round() + zero).clamp(0, LEVELS - 1)


def split(rows: Any, group: int) -> Any:
    """Return rows (outputs, inputs) as (outputs, groups, group), zeros filling up a shorter last group."""
    from torch.nn.functional import pad

    missing = -rows.shape[1] % group
    return (pad(rows, (0, missing)) if missing else rows).reshape(rows.shape[0], -1, group)


def pack(codes: Any) -> Any:
    """Pack codes (outputs, n) into bytes (outputs, ⌈n / 2⌉): the first of each two in the lower half."""
    from torch.nn.functional import pad

    even = pad(codes, (0, codes.shape[1] % 2))
    return even[:, ::2] | (even[:, 1::2] << BITS)


def unpack(packed: Any, count: int) -> Any:
    """Return the ``count`` codes of each row that :func:`pack` packed, uint8."""
    import torch

    return torch.stack((packed & (LEVELS - 1), packed >> BITS), dim=2).flatten(1)[:, :count]

"""Formats of quantized layers, dequantized: by what their libraries say, or packed here by their layouts."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pytest_tenpak.diagnosis.formats import read_layer
from pytest_tenpak.diagnosis.quantized_layer import UnknownFormatError
from pytest_tenpak.metrics.audit import NEAREST, ROUNDED_SCALES
from pytest_tenpak.models.ledger import parts_of
from pytest_tenpak.models.safetensors_files import read_tensors

GENERATOR = torch.Generator().manual_seed(0)
OUTPUTS, INPUTS = 48, 128


def layer_of(folder, tensors, config=None):
    """The layer ``a.b`` that these parts are."""
    whole = {f"a.b.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file({**whole, "a.c.weight": torch.ones(2)}, folder / "model.safetensors")
    return read_layer(parts_of("a.b", read_tensors(folder)), config or {})


def whole_and_in_parts(layer):
    """All rows, after a look whether parts of them are the same."""
    rows = layer.rows(0, layer.shape[0])
    some = layer.step * 2
    assert np.array_equal(layer.rows(some, 2 * some), rows[some : 2 * some])
    return rows


def packed(codes, bits, axis, order=None):
    """Integers packed into numbers of 32 bits along an axis, lowest first, as GPTQ and AWQ write them."""
    codes = np.moveaxis(codes.numpy().astype(np.uint64), axis, -1)
    stream = ((codes[..., None] >> np.arange(bits, dtype=np.uint64)) & 1).astype(np.uint8)
    if order:
        stream = stream.reshape(*codes.shape[:-1], -1, len(order), bits)[..., order, :]
    stream = stream.reshape(*codes.shape[:-1], -1)
    numbers = np.packbits(stream, axis=-1, bitorder="little").view(np.int32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(numbers, -1, axis)))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_4_bits_of_bitsandbytes(tmp_path, kind, double):
    """As bitsandbytes dequantizes what it packed, double quantization included."""
    functional = pytest.importorskip("bitsandbytes").functional
    weights = torch.randn(OUTPUTS, INPUTS, generator=GENERATOR)
    codes, state = functional.quantize_4bit(
        weights, blocksize=64, quant_type=kind, compress_statistics=double
    )
    parts = {"weight": codes}
    parts |= {f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}
    layer = layer_of(tmp_path, parts)
    theirs = functional.dequantize_4bit(codes, state).numpy()
    assert np.allclose(whole_and_in_parts(layer), theirs, atol=1e-6)
    assert (layer.rounding, layer.details["quant_type"], layer.details["double_quant"]) == (
        ROUNDED_SCALES if double else NEAREST,
        kind,
        double,
    )


def test_8_bits_of_bitsandbytes(tmp_path):
    """Rows with their largest magnitude."""
    codes = torch.randint(-127, 128, (OUTPUTS, INPUTS), generator=GENERATOR, dtype=torch.int8)
    largest = torch.rand(OUTPUTS, generator=GENERATOR)
    layer = layer_of(
        tmp_path, {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    )
    assert np.allclose(whole_and_in_parts(layer), (codes * largest[:, None] / 127).numpy(), atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_gptq(tmp_path, bits, version, shuffled):
    """Codes packed along the inputs, zero points along the outputs, less one in the first version."""
    groups = torch.arange(INPUTS) // 32
    if shuffled:
        groups = groups[torch.randperm(INPUTS, generator=GENERATOR)]
    codes = torch.randint(0, 2**bits, (INPUTS, OUTPUTS + 16), generator=GENERATOR)
    zeros = torch.randint(1, 2**bits, (4, OUTPUTS + 16), generator=GENERATOR)
    scales = torch.rand(4, OUTPUTS + 16, generator=GENERATOR)
    parts = {
        "qweight": packed(codes, bits, 0),
        "qzeros": packed(zeros - int(version == "gptq"), bits, 1),
        "scales": scales,
        "g_idx": groups.int(),
    }
    layer = layer_of(tmp_path, parts, {"checkpoint_format": version, "sym": False})
    assert np.allclose(
        whole_and_in_parts(layer), ((codes - zeros[groups]) * scales[groups]).T.numpy(), atol=1e-6
    )
    assert layer.details == {"bits": bits, "group_size": 32, "desc_act": shuffled, "sym": False}


def test_awq(tmp_path):
    """Codes packed along the outputs, in the order that its kernels unpack."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    codes = torch.randint(0, 16, (INPUTS, OUTPUTS), generator=GENERATOR)
    zeros = torch.randint(0, 16, (2, OUTPUTS), generator=GENERATOR)
    scales = torch.rand(2, OUTPUTS, generator=GENERATOR)
    parts = {
        "qweight": packed(codes, 4, 1, order),
        "qzeros": packed(zeros, 4, 1, order),
        "scales": scales,
    }
    layer = layer_of(tmp_path, parts)
    groups = torch.arange(INPUTS) // 64
    assert np.allclose(
        whole_and_in_parts(layer), ((codes - zeros[groups]) * scales[groups]).T.numpy(), atol=1e-6
    )


@pytest.mark.parametrize("zeros", [False, True])
def test_packed_integers_of_compressed_tensors(tmp_path, zeros):
    """Offset by half their range, or by zero points of their own."""
    codes = torch.randint(0, 16, (OUTPUTS, INPUTS), generator=GENERATOR)
    points = torch.randint(0, 16, (OUTPUTS, 4), generator=GENERATOR)
    scales = torch.rand(OUTPUTS, 4, generator=GENERATOR)
    parts = {
        "weight_packed": packed(codes, 4, 1),
        "weight_scale": scales,
        "weight_shape": torch.tensor([OUTPUTS, INPUTS]),
    }
    middle = torch.full((OUTPUTS, 4), 8)
    if zeros:
        parts["weight_zero_point"] = packed(points, 4, 0)
    layer = layer_of(tmp_path, parts)
    wanted = (codes - (points if zeros else middle).repeat_interleave(32, 1)) * scales.repeat_interleave(
        32, 1
    )
    assert np.allclose(whole_and_in_parts(layer), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (OUTPUTS, 1), (OUTPUTS, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_scaled_weights(tmp_path, shape, dtype):
    """A scale for the layer, for each output, or for each group of inputs."""
    values = torch.randint(-100, 100, (OUTPUTS, INPUTS), generator=GENERATOR).to(dtype)
    scales = torch.rand(shape, generator=GENERATOR)
    layer = layer_of(tmp_path, {"weight": values, "weight_scale": scales})
    spread = scales.repeat_interleave(INPUTS // shape[1], 1) if len(shape) == 2 else scales
    assert np.allclose(whole_and_in_parts(layer), (values.float() * spread).numpy(), atol=1e-5)


def test_floats_of_8_bits_in_blocks(tmp_path):
    """A scale for each block of outputs × inputs, the last ones short."""
    values = torch.randn(OUTPUTS, INPUTS, generator=GENERATOR).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3, generator=GENERATOR)
    layer = layer_of(tmp_path, {"weight": values, "weight_scale_inv": scales})
    spread = scales.repeat_interleave(24, 0).repeat_interleave(43, 1)[:, :INPUTS]
    assert np.allclose(whole_and_in_parts(layer), (values.float() * spread).numpy(), atol=1e-5)


def test_what_is_not_known_says_what_it_is_stored_as(tmp_path):
    """Instead of a guess."""
    parts = {"weight_packed": torch.zeros(4, 4, dtype=torch.uint8), "weight_global_scale": torch.ones(1)}
    with pytest.raises(UnknownFormatError, match="weight_global_scale, weight_packed"):
        layer_of(tmp_path, parts)

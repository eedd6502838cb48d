"""Where the modules of a model go, by their bytes and what is free; and that a placed model computes the same."""

import json
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, random_model, save
from traces import TOKENS

from pytest_tenpak.errors import UnavailableError
from pytest_tenpak.evaluation.decoder_layers import compare_layers, save_layers
from pytest_tenpak.evaluation.perplexity import Scorer
from pytest_tenpak.evaluation.protocol import Protocol
from pytest_tenpak.models.dispatched import input_device
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.loading import load_pretrained
from pytest_tenpak.quantizers.placement import (
    DISK,
    HOST,
    NONE,
    Block,
    Placement,
    Space,
    describe,
    device_map,
    loaded_bytes,
    place,
    space_for,
    within,
)
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.quantizers.rounding import round_to_nearest
from pytest_tenpak.spec import QuantizeSpec

#: Eight layers of 10 bytes between embeddings of 6, a norm of 1 and a head of 5; 92 bytes together.
BLOCKS = [
    Block("embed", 6),
    *(Block(f"layers.{n}", 10, is_layer=True) for n in range(8)),
    Block("norm", 1),
    Block("rotary", 0),
    Block("head", 5),
]
WINDOWS = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))


def layers(placed: dict[str, str]) -> str:
    """The first letters of the layers' places: ``0`` and ``1`` for GPUs, ``c`` and ``d`` for cpu and disk."""
    return "".join(placed[f"layers.{n}"].removeprefix("cuda:")[0] for n in range(8))


def two(first: int, second: int, **more) -> Space:
    return Space({"cuda:0": first, "cuda:1": second}, **more)


# ------------------------------------------------------------ the choice


def test_a_model_that_fits_stays_whole_on_the_first_device():
    """To the last byte, whatever else there is; spread only where that was asked for."""
    assert place(BLOCKS, two(92, 1000)) == {"": "cuda:0"}
    assert place(BLOCKS, Space({"cpu": 92}, offload=DISK)) == {"": "cpu"}
    assert place(BLOCKS, Space({"cuda:0": 92}, spread=True)) == {"": "cuda:0"}
    assert layers(place(BLOCKS, two(91, 1000))) == "00000111"


def test_a_spread_model_is_alike_on_devices_that_are():
    """Embeddings before the first layer, norm and head behind the last; what has no weights is on the first."""
    placed = place(BLOCKS, two(1000, 1000, spread=True))
    assert layers(placed) == "00000111"
    ends = {name: placed[name].removeprefix("cuda:") for name in ("embed", "norm", "rotary", "head")}
    assert ends == {"embed": "0", "norm": "1", "rotary": "0", "head": "1"}
    three = Space({f"cuda:{n}": 1000 for n in range(3)}, spread=True)
    assert [layers(place(BLOCKS, three)).count(str(n)) for n in range(3)] == [3, 4, 1]


def test_unlike_devices_are_filled_as_far_as_they_have_room():
    """A small one takes what it can; both are full where that is needed."""
    assert layers(place(BLOCKS, two(26, 1000))) == "00111111"
    assert layers(place(BLOCKS, two(80, 26))) == "00000001"
    assert layers(place(BLOCKS, two(46, 46))) == "00001111"


def test_what_does_not_fit_is_refused_with_the_sum():
    """Unless layers may go elsewhere; the host's memory is not endless either."""
    with pytest.raises(UnavailableError, match="does not fit on the devices") as caught:
        place([Block("layers.0", 3 << 30, is_layer=True)], two(1 << 30, 1 << 29))
    assert caught.value.given == "3.00 GiB of weights; room for cuda:0 1.00 GiB, cuda:1 0.50 GiB"
    assert "--tenpak-offload=cpu" in (caught.value.remedy or "")
    with pytest.raises(UnavailableError, match="does not fit") as caught:
        place(BLOCKS, Space({"cuda:0": 40}, host=59, offload=HOST))
    assert "host memory" in (caught.value.given or "")
    assert "--tenpak-offload=disk" in (caught.value.remedy or "")


def test_layers_go_elsewhere_from_the_last_one_on():
    """Room for the largest one stays free on each device, which it is brought to; ends are never elsewhere."""
    assert layers(place(BLOCKS, Space({"cuda:0": 52}, host=50, offload=HOST))) == "000ccccc"
    assert layers(place(BLOCKS, Space({"cpu": 52}, offload=DISK))) == "cccddddd"
    assert layers(place(BLOCKS, two(36, 26, host=50, offload=DISK))) == "001ddddd"
    placed = place(BLOCKS, Space({"cpu": -5}, offload=DISK))
    assert layers(placed) == "dddddddd"
    assert {placed[name] for name in ("embed", "norm", "head")} == {"cpu"}


def test_a_space_holds_for_its_first_device_and_its_context():
    """What another package loads onto the host on purpose stays there whole, and so does one device alone."""
    space = two(1, 1)
    with within(space):
        assert space_for("cuda:0") is space
        assert space_for("cpu") is None
        with within(Space({"cpu": 1})):
            assert space_for("cpu") is None
        assert space_for("cuda:0") is space
    assert space_for("cuda:0") is None


def test_a_placement_crosses_into_a_process_as_it_is():
    """As JSON and back."""
    placement = Placement(("cuda:0", "cuda:1"), True, DISK, 5)
    assert Placement.from_dict(json.loads(json.dumps(vars(placement)))) == placement


# ------------------------------------------------------------ real models


def sharded(folder: Path, family: str = "llama", **changed) -> Path:
    """A model of four layers in many shards."""
    sizes = {"n_layer": 4} if family == "gpt2" else {"num_hidden_layers": 4}
    model = random_model(family, **sizes, **changed)
    save(model, folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60kB")
    assert len(list(folder.glob("model-*.safetensors"))) > 5
    return folder


def on_disk(folder: Path, room: int = 0) -> Space:
    return Space({"cpu": room}, 0, DISK, False, folder)


@pytest.mark.parametrize(
    ("family", "dtype"), [*((family, "float32") for family in FAMILIES), ("llama", "bfloat16")]
)
def test_layers_on_disk_give_the_figures_of_layers_in_memory(tmp_path, family, dtype):
    """To the last digit: windows, layers of the decoder; and nothing is written, the files are the model's."""
    folder = sharded(tmp_path / "model", family)
    whole = load_pretrained(folder, "cpu", dtype)
    with within(on_disk(tmp_path / "offloaded")):
        placed = load_pretrained(folder, "cpu", dtype)
    assert (describe(whole), describe(placed)) == ("", "disk layers 0-3")
    assert input_device(placed) == torch.device("cpu")
    assert all(p.device.type == "meta" for n, p in placed.named_parameters() if ".2." in n)
    sums = [Scorer(model, TOKENS).score(WINDOWS).sums for model in (whole, placed)]
    assert sums[0] == sums[1]
    assert Scorer(placed, TOKENS).head_is_all == Scorer(whole, TOKENS).head_is_all
    for name, model in (("whole", whole), ("placed", placed)):
        save_layers(model, TOKENS, tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "placed").read_bytes()
    assert compare_layers(placed, TOKENS, tmp_path / "whole")["gain"] == pytest.approx([1.0] * 4)
    assert not list((tmp_path / "offloaded").glob("*"))


def test_first_layers_stay_in_memory_where_there_is_room(tmp_path):
    """As many as fit beside the largest one, in the type that they are loaded in."""
    folder = sharded(tmp_path)
    size = sum(n for name, n in loaded_bytes(folder, "float32").items() if ".layers.0." in name)
    rest = sum(n for name, n in loaded_bytes(folder, "float32").items() if ".layers." not in name)
    assert sum(loaded_bytes(folder, "bfloat16").values()) * 2 == sum(loaded_bytes(folder, "float32").values())
    with within(on_disk(tmp_path / "offloaded", rest + 3 * size)):
        model = load_pretrained(folder, "cpu", "float32")
    assert describe(model) == "cpu layers 0-1, disk layers 2-3"
    assert device_map(folder, "bfloat16", on_disk(tmp_path, rest + 3 * size)) == {"": "cpu"}


def test_layers_on_disk_are_rounded_as_those_in_memory(tmp_path):
    """The floor, round-to-nearest, is the same: each weight is rounded when it is read."""
    folder = sharded(tmp_path)
    whole = load_pretrained(folder, "cpu", "float32")
    with within(on_disk(tmp_path / "offloaded")):
        placed = load_pretrained(folder, "cpu", "float32")
    names = [f"model.layers.{n}.mlp.up_proj" for n in range(4)]
    before = Scorer(placed, TOKENS).score(WINDOWS).sums
    assert [round_to_nearest(model, names, 4, 32) for model in (whole, placed)] == [4, 4]
    after = Scorer(placed, TOKENS).score(WINDOWS).sums
    assert after == Scorer(whole, TOKENS).score(WINDOWS).sums != before


def quantized(folder: Path, method: str, **options) -> Path:
    quantizer = Registry()[method]
    spec = QuantizeSpec.build(method, quantizer.options, options)
    model = sharded(folder / "model", intermediate_size=128)
    (folder / method).mkdir()
    quantizer.quantize(Job(spec, model, folder / method, "cpu", "float32", [], ignore))
    return folder / method


def test_our_packed_layers_are_read_from_disk_too(tmp_path):
    """Codes and scales, which are buffers, are brought to the layer when it runs."""
    folder = quantized(tmp_path, "int4", group_size=32, outlier_fraction=0.01)
    whole = load_pretrained(folder, "cpu", "float32")
    with within(on_disk(tmp_path / "offloaded")):
        placed = load_pretrained(folder, "cpu", "float32")
    assert placed.model.layers[1].mlp.up_proj.codes.device.type == "meta"
    sums = [Scorer(model, TOKENS).score(WINDOWS).sums for model in (whole, placed)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_bitsandbytes_layers_are_not_offloaded(tmp_path, method):
    """transformers would leave such layers unquantized, another model; one that fits is loaded as ever."""
    folder = quantized(tmp_path, method)
    with (
        within(on_disk(tmp_path / "offloaded")),
        pytest.raises(UnavailableError, match="'bitsandbytes' cannot be in host memory or on disk") as caught,
    ):
        load_pretrained(folder, "cpu", "float32")
    assert "4 layers do not fit: model.layers.0" in (caught.value.given or "")
    with within(on_disk(tmp_path / "offloaded", 1 << 30)):
        assert describe(load_pretrained(folder, "cpu", "float32")) == ""


def test_a_run_without_either_loads_as_before(tmp_path):
    """One device and no offload: nothing is looked at, and the model is on the device."""
    with within(Space({"cpu": 0}, offload=NONE)):
        model = load_pretrained(sharded(tmp_path), "cpu", "float32")
    assert describe(model) == ""
    assert not hasattr(model.model.layers[0].mlp.up_proj, "_hf_hook")

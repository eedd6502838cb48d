"""The files beside the weights: a checkpoint's compared with the model's, by meaning. Pure.

Takes what :func:`~.shipped.read_shipped` found in the two directories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from ..metrics.audit import ChangedField, FilesAudit

#: Fields that change nothing of what is computed, generated or tokenized: where files came from, how training
#: went, what a forward pass also returns, and how weights are stored, which the audit of weights answers.
_COSMETIC = (
    "config._name_or_path",
    "config._model_name_or_path",
    "config.auto_map",
    "config.chunk_size_feed_forward",
    "config.dtype",
    "config.id2label.*",
    "config.initializer_range",
    "config.label2id.*",
    "config.output_*",
    "config.pretraining_tp",
    "config.problem_type",
    "config.return_dict",
    "config.torch_dtype",
    "config.transformers_version",
    "config.use_cache",
    "config.*dropout",
    "config.*pdrop",
    "config.finetuning_task",
    "config.task_specific_params*",
    "generation._from_model_config",
    "generation.output_*",
    "generation.return_dict_in_generate",
    "generation.transformers_version",
    "generation.use_cache",
    "quantization.*",
)
#: Fields that change nothing where the model had none: a token to pad with, which many libraries set, and the
#: class that transformers finds by itself.
_FILLED_IN = ("*.pad_token", "*.pad_token_id", "config.architectures")
#: Fields that differ between any two directories.
_UNSEEN = ("*name_or_path", "*transformers_version", "quantization.*", "generation._from_model_config")
#: Options of quantization that loaders act upon, by every library's names. What else a library writes there
#: changes with its version.
_RECIPE = {
    f"quantization.{name}"
    for name in (
        "bits",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "checkpoint_format",
        "desc_act",
        "format",
        "group_size",
        "llm_int8_skip_modules",
        "llm_int8_threshold",
        "load_in_4bit",
        "load_in_8bit",
        "modules_to_not_convert",
        "quant_method",
        "sym",
        "version",
        "zero_point",
    )
}
_NONE = "none"
_UNSET = (_NONE, "null", "None")


def compare_files(
    model: Mapping[str, str],
    checkpoint: Mapping[str, str],
    contradictions: tuple[str, ...] = (),
    complete: bool = True,
) -> FilesAudit:
    """Return what a checkpoint's files say otherwise than the model's.

    ``contradictions`` are those between its quantization config and its weights. Unless ``complete``, the two
    were read by different versions of transformers, whose defaults differ: only fields of both are compared.
    """
    behaviour: list[ChangedField] = []
    cosmetic: list[ChangedField] = []
    for name, old, new in _differences(model, checkpoint, complete):
        filled_in = old in _UNSET and any(fnmatchcase(name, pattern) for pattern in _FILLED_IN)
        is_cosmetic = filled_in or any(fnmatchcase(name, pattern) for pattern in _COSMETIC)
        (cosmetic if is_cosmetic else behaviour).append(ChangedField(name, old, new))
    recipe = {name: value for name, value in checkpoint.items() if name in _RECIPE}
    shown = tuple(one for one in cosmetic if not any(fnmatchcase(one.name, pattern) for pattern in _UNSEEN))
    return FilesAudit(tuple(behaviour), shown, recipe, contradictions)


def _differences(
    model: Mapping[str, str], checkpoint: Mapping[str, str], complete: bool
) -> Iterator[tuple[str, str, str]]:
    names = {*model, *checkpoint} if complete else model.keys() & checkpoint.keys()
    for name in sorted(names):
        old, new = model.get(name, _NONE), checkpoint.get(name, _NONE)
        if old != new and not (old in _UNSET and new in _UNSET):
            yield name, old, new

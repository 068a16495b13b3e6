"""WeSpeaker's files: what they lay out otherwise than the schema, and which of their keys have no effect here.

Its examples are configurations as a user writes them; the ``config.yaml`` of its experiment folders has more, because
its train.py notes there what it was called with and what it derived.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from wespeaker_qm.config.data import FilterArgs, ShuffleArgs
from wespeaker_qm.config.model import MODELS, ModelArgs
from wespeaker_qm.config.schema import Config

NOTED = (
    "data_type",
    "train_data",
    "train_label",
    "reverb_data",
    "noise_data",
    "checkpoint",
    "projection_args.embed_dim",
    "projection_args.num_class",
    "projection_args.do_lm",
    "margin_update.epoch_iter",
    "optimizer_args.lr",
    "scheduler_args.num_epochs",
    "scheduler_args.epoch_iter",
    "scheduler_args.scale_ratio",
)
"""What WeSpeaker's train.py adds to its ``config.yaml``: here the corpus or another key says it."""

ONLY_VALUES: Mapping[str, Any] = {
    "dataset_args.frontend": "fbank",
    "dataset_args.speed_perturb_mode": "random",
    "dataset_args.cmvn": True,
    "dataset_args.cmvn_args.norm_mean": True,
    "dataset_args.cmvn_args.norm_var": False,
}
"""Keys of WeSpeaker's that are no choice here, and their value."""

_FOR_EXTRACTION = frozenset(
    {
        "device",
        "num_threads",
        "seed",
        "num_epochs",
        "num_avg",
        "whiten",
        "model",
        "model_init",
        "model_args",
        "dataset_args.resample_rate",
        "dataset_args.fbank_args",
        *(key for key in ONLY_VALUES if key != "dataset_args.speed_perturb_mode"),
    }
)
"""Keys that what is done with a finished network depends on."""


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file or command line without :data:`ONLY_VALUES`, and ``gpus`` as text.

    >>> translated({"gpus": [0, 1], "dataset_args": {"cmvn": True, "num_frms": 300}})
    {'gpus': '[0,1]', 'dataset_args': {'num_frms': 300}}
    """
    values = _without(values, lambda key, value: key in ONLY_VALUES and _is_same(value, ONLY_VALUES[key]))
    gpus = values.get("gpus")
    numbers = gpus if isinstance(gpus, list) else [gpus]
    if all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        values["gpus"] = f"[{','.join(map(str, numbers))}]"
    return values


def without_noted(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The values of a file without :data:`NOTED`; ``notes`` gets one that names those which were there."""
    noted: list[str] = []

    def is_noted(key: str, _: Any) -> bool:
        if key in NOTED:
            noted.append(key)
        return key in NOTED

    kept = _without(values, is_noted)
    if noted:
        notes.append(
            f"{', '.join(noted)}: no effect, WeSpeaker's train.py noted them of its own run; what they say is taken "
            "from the corpus (run.sh --data) and from num_epochs, scheduler_args.initial_lr and model_args.embed_dim"
        )
    return kept


def for_extraction(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that a finished network depends on, so that it may have been trained in any way.

    ``gpus`` are left out: they say where it was trained.
    """
    sections = {key.rpartition(".")[0] for key in _FOR_EXTRACTION}

    def is_of_training(key: str, _: Any) -> bool:
        parents = [key[:end] for end, character in enumerate(key) if character == "."]
        return key not in sections and not _FOR_EXTRACTION.intersection([key, *parents])

    return _without(values, is_of_training)


def _without(values: Mapping[str, Any], is_left_out: Callable[[str, Any], bool], prefix: str = "") -> dict[str, Any]:
    """A nested mapping without some keys, and without sections that become empty by that."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if is_left_out(key, value):
            continue
        if isinstance(value, dict) and value:
            inner = _without(value, is_left_out, f"{key}.")
            if not inner:
                continue
            value = inner
        kept[name] = value
    return kept


def _is_same(value: Any, only: Any) -> bool:
    return type(value) is type(only) and value == only


def with_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file as the schema wants them: ``model_args`` as a pair with ``model``, which chooses its class.

    >>> with_names({"model": "ResNet18", "model_args": {"embed_dim": 128}})["model_args"]
    ['ResNet18', {'embed_dim': 128}]
    """
    name = values.get("model", Config.model)
    return {**values, "model_args": [name if isinstance(name, str) else "", values.get("model_args", {})]}


def drop_former_choice(values: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Drop from ``values``, in place, what means nothing to the loss or the network that ``overlay`` chooses.

    A file that names ``projection_args.project_type`` replaces ``projection_args`` as a whole. One that names a
    ``model`` with other arguments than the one before keeps of ``model_args`` what every network has.
    """
    projection = overlay.get("projection_args")
    if isinstance(projection, dict) and "project_type" in projection:
        values.pop("projection_args", None)
    before, after = values.get("model", Config.model), overlay.get("model", values.get("model", Config.model))
    arguments = values.get("model_args")
    if isinstance(arguments, dict) and MODELS.get(str(before)) is not MODELS.get(str(after)):
        common = {field.name for field in dataclasses.fields(ModelArgs)}
        values["model_args"] = {name: value for name, value in arguments.items() if name in common}


def compatibility_notes(config: Config) -> list[str]:
    """Keys of WeSpeaker's that have no effect here, where they are set, and one that means something else."""
    notes = []
    if config.exp_dir is not None:
        notes.append("exp_dir is accepted for compatibility but has no effect; use run.sh --exp_dir")
    if config.gpus is not None:
        notes.append(f"gpus does not choose among GPUs and starts no processes; use run.sh --gpus {config.gpus}")
    dataset = config.dataset_args
    if dataset.shuffle_args.shuffle_size != ShuffleArgs().shuffle_size:
        notes.append("dataset_args.shuffle_args.shuffle_size has no effect: the whole epoch is permuted")
    if dataset.filter_args.max_num_frames != FilterArgs().max_num_frames:
        notes.append("dataset_args.filter_args.max_num_frames has no effect: chunks are read from the whole utterance")
    if config.projection_args.project_type == "softmax":
        notes.append(f"projection_args.project_type: {SOFTMAX}")
    return notes


SOFTMAX = (
    "softmax is cross-entropy on scaled cosines here; WeSpeaker's softmax is another loss, a plain linear layer "
    "(after batch norm and ReLU) without scale"
)

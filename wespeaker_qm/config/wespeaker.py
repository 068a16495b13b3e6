"""WeSpeaker's files: where they are laid out otherwise than the schema, and which of their keys have no effect here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from wespeaker_qm.config.data import FilterArgs, ShuffleArgs
from wespeaker_qm.config.model import MODELS, ModelArgs
from wespeaker_qm.config.schema import Config


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
    """Keys of WeSpeaker's that have no effect here, where they are set."""
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
    return notes

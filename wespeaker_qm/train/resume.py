"""Whether a saved state belongs to the run that wants to continue from it."""

from pathlib import Path
from typing import Any

import yaml

from wespeaker_qm.config import Config
from wespeaker_qm.utils.errors import RecipeError

WITHOUT_EFFECT = frozenset(
    {
        "exp_dir",
        "gpus",
        "log_batch_interval",
        "save_epoch_interval",
        "valid_epoch_interval",
        "dataloader_args.frontend",
        "dataloader_args.num_workers",
        "dataloader_args.pin_memory",
        "dataloader_args.prefetch_factor",
    }
)
"""Keys that may change between a run and its continuation, because they change no weight."""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def check_same_run(state: dict[str, Any], config: Config, speakers: list[str], world_size: int, path: Path) -> None:
    """Check that a state was saved with this configuration, these speakers and this number of processes.

    Raises:
        RecipeError: they differ; every key is named with both values.
    """
    before, now = _flat(yaml.safe_load(state["config"])), _flat(yaml.safe_load(config.to_yaml()))
    changes = [
        f"{key}: was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in WITHOUT_EFFECT and before.get(key) != now.get(key)
    ]
    if state["world_size"] != world_size:
        changes.append(f"processes: was {state['world_size']}, now {world_size}")
    if state["speakers"] != speakers:
        changes.append(f"training speakers: was {len(state['speakers'])}, now {len(speakers)}, or others")
    if changes:
        raise RecipeError(
            f"{path}: the interrupted run had other settings: {'; '.join(changes)}. Set them back, choose another "
            "--exp_dir, or delete this one to train anew"
        )

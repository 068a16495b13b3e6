"""From YAML files and dotted overrides to one checked configuration."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wespeaker_qm.config.fields import SKIPPED
from wespeaker_qm.config.messages import explain, show
from wespeaker_qm.config.notes import config_notes
from wespeaker_qm.config.schema import Config
from wespeaker_qm.config.wespeaker import drop_former_choice, for_extraction, translated, with_names, without_noted
from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.shipped import shipped
from wespeaker_qm.utils.yaml_files import parse_yaml, read_yaml_mapping

logger = logging.getLogger(__name__)

COMMAND_LINE = "command line"
_MAX_NAMES = 20
"""Sections within sections, in an override; the schema has three."""


def load_config(files: Sequence[Path | str], overrides: Sequence[str] = (), *, for_training: bool = True) -> Config:
    """Read YAML files, merge them left to right, apply dotted overrides, and check the result.

    Args:
        files: at least one YAML file, or the name of one that the package brings (``conf/...``); later ones win.
            Missing keys take the defaults of :class:`Config`.
        overrides: ``key.key=value``, the value in YAML: ``dataset_args.num_frms=100``. Their order is of no matter,
            except that the last of two values for one key wins.
        for_training: False reads only what a finished network depends on (its kind and sizes, the features, the
            checkpoints to average), so that WeSpeaker may have trained it, with any loss; all else has its default.

    Returns:
        The frozen configuration. Settings worth a second look (see :func:`config_notes`) are logged.

    Raises:
        RecipeError: a file that is missing or not YAML, an unknown or doubled key, a value of the wrong type or range,
            or keys at odds; a line for each names the file (or ``command line``), the dotted key, the value found,
            what is expected, and for unknown keys the nearest valid names.
    """
    overlays = [(read_yaml_mapping(shipped(file)), str(file)) for file in files]
    config, notes = _checked(overlays, overrides, for_training)
    for note in [*notes, *config_notes(config)] if for_training else ():
        logger.warning("config: %s", note)
    return config


def config_of(values: dict[str, Any], source: Path | str) -> Config:
    """The configuration that a run has saved. Nothing is logged: its training has told what is worth a second look.

    Args:
        values: as they were read.
        source: where, for messages.

    Raises:
        RecipeError: as :func:`load_config`.
    """
    return _checked([(values, str(source))], (), True)[0]


def saved_settings(path: Path | str) -> dict[str, Any]:
    """All settings of a run's ``config.yaml``, also those that were left out at their default; for reports.

    Raises:
        RecipeError: no such file, or not YAML. A file that is no configuration of ours is taken as it is.
    """
    values = read_yaml_mapping(path)
    try:
        return dataclasses.asdict(config_of(values, path))
    except RecipeError:
        return values


def _checked(
    files: Sequence[tuple[dict[str, Any], str]], overrides: Sequence[str], for_training: bool
) -> tuple[Config, list[str]]:
    """The configuration of files (what they hold, and their names), and notes on keys that have no place in it."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    notes: list[str] = []
    overlays = [(without_noted(values, notes), source) for values, source in files]
    for given, source in [*overlays, (_parse_overrides(overrides), COMMAND_LINE)]:
        overlay = translated(given if for_training else for_extraction(given))
        drop_former_choice(merged, overlay)
        _merge(merged, overlay, origins, source)
    try:
        # Through JSON because pydantic's strict mode wants instances of nested dataclasses from Python objects.
        config = TypeAdapter(Config).validate_json(json.dumps(with_names(merged), default=str))
    except ValidationError as error:
        lines = [explain(detail, merged, origins) for detail in error.errors() if detail["type"] != SKIPPED]
        raise RecipeError("\n".join(lines)) from None
    return config, notes


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Nest ``a.b=value`` strings, so that they merge like one more file."""
    nested: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names) or len(names) > _MAX_NAMES:
            raise RecipeError(
                f"{COMMAND_LINE}: found override {shown(override)}, expected key=value, e.g. dataset_args.num_frms=100"
            )
        section = nested
        for name in names[:-1]:
            child = section.setdefault(name, {})
            if not isinstance(child, dict):
                raise RecipeError(f"{COMMAND_LINE}: {key.strip()}: {name} was given the value {show(child)} before")
            section = child
        section[names[-1]] = parse_yaml(text, f"{COMMAND_LINE}: {key.strip()}")
    return nested


def _merge(
    base: dict[str, Any], overlay: dict[str, Any], origins: dict[str, str], source: str, prefix: str = ""
) -> None:
    """Merge ``overlay`` into ``base`` in place and note in ``origins`` where each value came from."""
    for name, value in overlay.items():
        key = f"{prefix}{name}"
        origins[key] = source
        if not isinstance(value, dict):
            base[name] = value
            continue
        if not isinstance(base.get(name), dict):
            base[name] = {}
            for stale in [other for other in origins if other.startswith(f"{key}.")]:
                del origins[stale]
        _merge(base[name], value, origins, source, f"{key}.")

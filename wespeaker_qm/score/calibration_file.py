"""``scores/calibration.json``: the model, and what it did to each list."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.score.calibration import Calibration
from wespeaker_qm.score.calibration_check import EerCheck
from wespeaker_qm.utils.checksums import read_checked_json, write_checked_text
from wespeaker_qm.utils.errors import RecipeError, found_at
from wespeaker_qm.utils.kinds import check_kinds
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS


def save_calibration(path: Path | str, model: Calibration, checks: Mapping[str, EerCheck]) -> None:
    """Write the model and the checks of the trial lists (name -> check) as JSON, and its checksum."""
    content = {
        "version": STAGE_VERSIONS["calibrate"],
        "model": dataclasses.asdict(model),
        "lists": {name: check._asdict() for name, check in checks.items()},
    }
    write_checked_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def load_calibration(path: Path | str) -> tuple[Calibration, dict[str, EerCheck]]:
    """Read what :func:`save_calibration` wrote.

    Raises:
        RecipeError: no such file, damaged, or of another version.
    """
    path = Path(path)
    remedy = "calibrate the run again (run.sh --stage 7)"
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; {remedy}")
    content = read_checked_json(path, f"delete it and {remedy}")
    try:
        version = content.get("version", 1)
        if version != STAGE_VERSIONS["calibrate"]:
            raise RecipeError(
                f"{path}: found version {version}, expected {STAGE_VERSIONS['calibrate']}; in version 1 (which had no "
                f"number) quality measures could decide alone; {remedy}"
            )
        fields: dict[str, Any] = {
            key: tuple(value) if key in ("base", "full") else value for key, value in content["model"].items()
        }
        model = Calibration(**fields)
        check_kinds(model)
        return model, {name: EerCheck(**check) for name, check in content["lists"].items()}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise RecipeError(f"{path}: not a calibration ({error!r}); delete it and {remedy}") from None

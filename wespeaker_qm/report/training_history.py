"""How a training run went: the records of its ``train_log.jsonl``.

The trainer writes one JSON object a line, of which the field ``type`` says what it is: ``step`` (means since the last
one: ``step loss accuracy margin learning_rate``, and for alpha > 1 ``support candidate_density solved dropped``),
``epoch`` (the same over the epoch, and ``samples minutes`` since the start of training) and ``valid`` (held-out
verification: ``step eer``). Accuracy is that of the cosines without a margin.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from wespeaker_qm.utils.checksums import verify
from wespeaker_qm.utils.errors import RecipeError, counted, found_at, shown
from wespeaker_qm.utils.text import lines_of, read_text

_REMEDY = "put back a copy of it, or delete it: reports then go without the training's curves"

_NUMBERS = ("epoch", "step", "samples", "minutes")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingHistory:
    """The records of one run, in order."""

    steps: list[dict[str, Any]]
    """Records of type ``step``; none when the logging interval is longer than an epoch."""
    epochs: list[dict[str, Any]]
    """Records of type ``epoch``, at least one."""
    validations: list[dict[str, Any]]
    """Records of type ``valid``."""

    @property
    def num_epochs(self) -> int:
        """Epochs that were finished."""
        return int(self.epochs[-1]["epoch"])

    @property
    def num_samples(self) -> int:
        """Training samples seen."""
        return int(self.epochs[-1]["samples"])

    @property
    def minutes(self) -> float:
        """Minutes of training, interruptions not counted."""
        return float(self.epochs[-1]["minutes"])

    def __str__(self) -> str:
        epochs = counted(self.num_epochs, "epoch", "epochs")
        return f"{self.num_samples:,} training samples in {epochs} and {self.minutes:.1f} minutes"


def read_training_history(path: Path | str) -> TrainingHistory:
    """Read ``train_log.jsonl``.

    Raises:
        RecipeError: no such file, not what was written, no finished epoch in it, or a line that is not a record.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; train first (run.sh --stage 3)")
    verify(path, _REMEDY, grows=True)
    records: dict[str, list[dict[str, Any]]] = {"step": [], "epoch": [], "valid": []}
    for number, line in lines_of(read_text(path, _REMEDY)):
        try:
            record = json.loads(line)
            records[record["type"]].append(record)
            numbers = [record[name] for name in _NUMBERS if name in record]
            if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
                raise ValueError("no finite number")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RecipeError(
                f"{path}:{number}: found {shown(line)}, expected a JSON object with numbers whose type is "
                f"one of {', '.join(records)}; {_REMEDY}"
            ) from error
    if not records["epoch"]:
        raise RecipeError(
            f"{path}: no finished epoch; go on with the training (run.sh --stage 3) or, if it has finished, {_REMEDY}"
        )
    complete = all("step" in record for kind in records.values() for record in kind)
    if not complete or not records["epoch"][-1].keys() >= set(_NUMBERS):
        raise RecipeError(f"{path}: found records that lack some of {', '.join(_NUMBERS)}; {_REMEDY}")
    return TrainingHistory(records["step"], records["epoch"], records["valid"])

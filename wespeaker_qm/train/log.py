"""The training log: one JSON object a line, TensorBoard scalars, and the progress bar."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from wespeaker_qm.utils.checksums import GrowingText, verify

# Scripts read bars through a pipe, where a line a second would drown the log.
_SECONDS_BETWEEN_LINES = 30.0


def log_path(exp_dir: Path) -> Path:
    """``exp_dir/train_log.jsonl``."""
    return exp_dir / "train_log.jsonl"


class TrainingLog:
    """Appends records to ``train_log.jsonl`` and ``tensorboard/``.

    Records have a ``type``: ``step`` (means since the last one), ``epoch`` (means over the epoch), ``valid``
    (held-out verification). A resumed run drops the records of the epochs that it repeats.

    Args:
        exp_dir: of the run.
        last_epoch: the last finished epoch; 0 for a new run, which starts an empty log.

    Raises:
        RecipeError: the log to be continued is not what was written.
    """

    def __init__(self, exp_dir: Path, last_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = log_path(exp_dir)
        kept = []
        if path.is_file() and last_epoch:
            verify(path, "put back a copy of it, or delete it: its curves will begin at this epoch", grows=True)
            lines = path.read_text(encoding="utf-8").splitlines()
            # A killed run may have left half a line at the end.
            records = [json.loads(line) for line in lines if line.endswith("}")]
            kept = [record for record in records if record["epoch"] <= last_epoch]
        self._file = GrowingText(path, "".join(json.dumps(record) + "\n" for record in kept))
        purge_step = kept[-1]["step"] + 1 if kept else 0
        self._board = SummaryWriter(str(exp_dir / "tensorboard"), purge_step=purge_step)

    def write(self, kind: str, *, epoch: int, step: int, **values: float | None) -> None:
        """Append a record; ``None`` stands for a figure that cannot be measured."""
        record = {"type": kind, "epoch": epoch, "step": step, **values}
        self._file.add(json.dumps(record) + "\n")
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()


@contextmanager
def progress_bar(total: int, initial: int, enabled: bool) -> Iterator["tqdm[Any]"]:
    """A bar over the samples of the whole training: samples a second and time left."""
    bar = tqdm(total=total, initial=initial, unit="sample", desc="training", disable=not enabled, smoothing=0.05)
    if not bar.disable and not bar.fp.isatty():
        bar.mininterval = _SECONDS_BETWEEN_LINES
    with bar:
        yield bar

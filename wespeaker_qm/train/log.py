"""The training log: one JSON object a line, what trackers are told, the progress bar, and messages."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.config import Config
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.figures import Means
from wespeaker_qm.train.speed import Arithmetic, PartTimes, peak_memory_mib
from wespeaker_qm.train.trackers import begin
from wespeaker_qm.utils.checksums import GrowingText, verify
from wespeaker_qm.utils.errors import RecipeError, shown, shown_line, told_beside
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.text import lines_of, parse_json, read_text

logger = logging.getLogger(__name__)

_REMEDY = "put back a copy of it, or delete it: its curves will begin where the training goes on"


def read_log(path: Path, remedy: str) -> list[dict[str, Any]]:
    """The records of a log; half a line at its end is what a killed training leaves.

    Args:
        path: of the log.
        remedy: what may be done, for messages.

    Raises:
        RecipeError: a line is no record of figures with type, epoch and step, or a step or epoch is missing, stands
            twice or is out of order.
    """
    records: list[dict[str, Any]] = []
    last: dict[str, tuple[int, int]] = {}
    lines = list(lines_of(read_text(path, remedy)))
    for number, text in lines:
        if number == lines[-1][0] and not text.endswith("}"):
            break
        where = f"{path}:{number}"
        record = parse_json(text, where, remedy)
        if not _is_record(record):
            raise RecipeError(
                f"{where}: found a record without type, epoch or step, or with values that are no figures: "
                f"{shown_line(text)}; {remedy}"
            )
        kind, epoch, step = record["type"], record["epoch"], record["step"]
        before = last.get(kind, (epoch - 1, step - 1))  # a log that was deleted begins where training went on
        is_next = epoch == before[0] + 1 if kind == "epoch" else epoch >= before[0]
        if not is_next or step <= before[1]:
            raise RecipeError(
                f"{where}: a record of type {shown(kind)} of epoch {epoch}, step {step} after one of epoch "
                f"{before[0]}, step {before[1]}, expected the next; {remedy}"
            )
        last[kind] = epoch, step
        records.append(record)
    return records


def _is_record(record: Any) -> bool:
    """Whether a value is what :meth:`LogWriter.write` has written."""
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return False
    if any(type(record.get(name)) is not int or record[name] < 1 for name in ("epoch", "step")):
        return False
    figures = [record[name] for name in record if name != "type"]
    figures += [part for value in figures if isinstance(value, dict) for part in value.values()]
    return all(value is None or isinstance(value, int | float | dict) for value in figures)


class LogWriter:
    """Appends records to ``train_log.jsonl``, and tells the trackers their numbers.

    Records have a ``type``: ``step`` (means since the last one), ``epoch`` (means over the epoch), ``valid``
    (held-out verification). A resumed run drops the records of the steps that it repeats.

    Args:
        run: where the log goes.
        step: the last update that is not repeated; 0 for a new run, which starts an empty log.
        config: of the run, with its trackers; None: one of defaults.

    Raises:
        RecipeError: the log to be continued is not what was written.
    """

    def __init__(self, run: RunFolder, step: int, config: Config | None = None) -> None:
        path = run.training_log
        kept = []
        if path.is_file() and step:
            verify(path, _REMEDY, grows=True)
            kept = [record for record in read_log(path, _REMEDY) if record["step"] <= step]
        self._file = GrowingText(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._trackers = begin(run, config or Config(), step)
        for record in kept:
            self._tell(record)

    def write(self, kind: str, *, epoch: int, step: int, **values: float | Mapping[str, float] | None) -> None:
        """Append a record; ``None`` stands for a figure that cannot be measured."""
        record = {"type": kind, "epoch": epoch, "step": step, **values}
        self._file.add(json.dumps(record) + "\n")
        self._tell(record)

    def close(self) -> None:
        """Close the log, and let the trackers end."""
        self._file.close()
        for tracker in self._trackers:
            tracker.end()

    def _tell(self, record: Mapping[str, Any]) -> None:
        figures: dict[str, float] = {}
        for name, value in record.items():
            if name not in ("type", "epoch", "step"):
                parts = value.items() if isinstance(value, Mapping) else [("", value)]
                figures |= {f"{name}/{part}".rstrip("/"): each for part, each in parts if each is not None}
        for tracker in self._trackers:
            tracker.log({f"{record['type']}/{name}": each for name, each in figures.items()}, record["step"])


class Journal:
    """What a training tells while it runs: its log, its progress bar and its messages, on the first process alone.

    The other processes call it likewise, and nothing comes of it.

    Records of steps and of epochs have ``speed``: the times of a step's parts, ``tflops`` (of the network, a second and
    process), ``mfu`` (model FLOP utilisation) and ``peak_memory_mib``, each of the slowest or largest process.

    Args:
        run: where the log goes.
        config: of the run.
        processes: this process among those that train.
        arithmetic: of the network on this process's device.
        epoch: the one that begins or goes on, from 1.
        step: updates so far; 0 for a new run.
        samples: of these updates, on all processes.
        samples_left: until the end of the training, likewise.
        state: that :meth:`state` gave then; None where it was the end of an epoch.

    Raises:
        RecipeError: as :class:`LogWriter`.
    """

    def __init__(
        self,
        run: RunFolder,
        config: Config,
        processes: Processes,
        arithmetic: Arithmetic,
        *,
        epoch: int,
        step: int,
        samples: int,
        samples_left: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.processes = processes
        self.world_size = processes.world_size
        self.arithmetic = arithmetic
        self.samples = samples
        self._writer = LogWriter(run, step, config) if processes.is_first else None
        self._bar = Progress(
            total=samples + samples_left,
            initial=samples,
            unit="sample",
            desc="training",
            show=processes.is_first,
            smoothing=0.05,
        )
        self.start_epoch(epoch)
        if state:
            self._over_epoch, self._over_interval = Means.restored(state["epoch"]), Means.restored(state["interval"])

    def state(self) -> dict[str, Any]:
        """The means of the epoch so far, for a journal that goes on in the middle of it."""
        return {"epoch": self._over_epoch.state(), "interval": self._over_interval.state()}

    def start_epoch(self, epoch: int) -> None:
        """Begin the means of an epoch."""
        self._epoch = epoch
        self._over_epoch, self._over_interval = Means(), Means()
        self._epoch_times, self._interval_times = PartTimes(), PartTimes()

    def add_step(
        self,
        step: int,
        figures: dict[str, float],
        samples: int,
        wait_s: float,
        times_ms: dict[str, float],
        scheduled: dict[str, float],
    ) -> None:
        """Tell of an update.

        Args:
            step: updates so far, this one counted in.
            figures: as :func:`batch_figures` says.
            samples: of it, on all processes.
            wait_s: seconds that the training waited for the batch.
            times_ms: part of the step -> milliseconds that it took.
            scheduled: its ``margin`` and ``learning_rate``.
        """
        for means in (self._over_epoch, self._over_interval):
            means.add(figures, samples, wait_s)
        for times in (self._epoch_times, self._interval_times):
            times.add(times_ms)
        shown = self._over_interval.values()
        postfix: dict[str, object] = {
            "epoch": self._epoch,
            "loss": f"{shown['loss']:.3f}",
            "acc": f"{shown['accuracy']:.3f}",
            **{name: f"{shown[name]:.3g}" for name in ("support", "solved") if name in shown},
            "margin": f"{scheduled['margin']:.3f}",
            "lr": f"{scheduled['learning_rate']:.2g}",
            "waited": f"{self._over_epoch.wait_s:.1f}s",
        }
        self._bar.set_postfix(postfix, refresh=False)
        self.samples += samples
        self._bar.update(samples)
        if step % self.config.log_batch_interval == 0:
            self._write("step", step, **shown, **scheduled, speed=self._speed(self._interval_times, shown))
            self._over_interval, self._interval_times = Means(), PartTimes()

    def end_epoch(self, step: int, scheduled: dict[str, float], elapsed_s: float) -> None:
        """Tell of the epoch: its last step and what was scheduled then, and the seconds of all training so far."""
        values = self._over_epoch.values()
        seen = {"samples": self.samples, "minutes": elapsed_s / 60}
        self._write("epoch", step, **values, **scheduled, **seen, speed=self._speed(self._epoch_times, values))
        is_last = self._epoch == self.config.num_epochs
        if self._writer is not None and is_last and values.get("dropped", 0.0) > 1 / 2:
            logger.warning(
                "projection_args: in the last epoch %.0f %% of the samples gave their own class a posterior of "
                "exactly 0: the loss is too sparse for them; lower alpha or scale, or train for longer",
                100 * values["dropped"],
            )

    def add_validation(self, step: int, figures: dict[str, float | None], elapsed_s: float) -> None:
        """Tell of a held-out check, whose figures may be None: not measurable."""
        if self._writer is None:
            return
        self._write("valid", step, minutes=elapsed_s / 60, **figures)
        shown = ", ".join(
            f"{_in_words(name)} {'not measurable' if value is None else f'{100 * value:.1f} %'}"
            for name, value in figures.items()
        )
        logger.info("epoch %d: held-out speakers: %s", self._epoch, shown)

    def _speed(self, times: PartTimes, means: Mapping[str, float]) -> dict[str, float]:
        """All processes call it together."""
        samples_per_s = means["samples_per_s"] / self.world_size
        return self.processes.largest(
            {
                **times.values(),
                "tflops": 1e-12 * self.arithmetic.per_sample * samples_per_s,
                "mfu": self.arithmetic.utilisation(samples_per_s),
                "peak_memory_mib": peak_memory_mib(self.processes.device),
            }
        )

    def _write(self, kind: str, step: int, **values: float | Mapping[str, float] | None) -> None:
        if self._writer is not None:
            self._writer.write(kind, epoch=self._epoch, step=step, **values)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with told_beside(error):
            self._bar.close()
            if self._writer is not None:
                self._writer.close()


def _in_words(name: str) -> str:
    """A figure of the held-out check as one says it: ``eer`` is "EER", ``tar_at_far_1e-2`` is "TAR at FAR 1e-2"."""
    return name.replace("eer", "EER").replace("tar_at_far_", "TAR at FAR ")

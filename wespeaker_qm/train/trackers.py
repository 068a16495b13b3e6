"""Programs that show a training while it runs: TensorBoard, Weights & Biases, MLflow.

A tracker is a row of :data:`TRACKERS`, and ``trackers`` of the configuration names those that are told. What a resumed
training has told is told again: a tracker that has it already takes it once.
"""

import importlib.util
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, Protocol

from wespeaker_qm.config import Config
from wespeaker_qm.train.resume import settings_of
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.extras import installation
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.text import read_text

logger = logging.getLogger(__name__)

_PROJECT = "wespeaker_qm"
_PATIENCE_S = 30.0
"""How long the end of a training waits for what a tracker behind a network has not yet been told."""


class Tracker(Protocol):
    """Takes figures of a training; it is made where that begins or goes on."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take named figures of a step; steps do not fall. Of what it was told before nothing comes."""

    def end(self) -> None:
        """Nothing more comes in this process."""


class TensorBoard:
    """Event files in the run's folder.

    Args:
        run: folder of the training.
        config: of the training.
        step: the last of which it keeps what it has; 0: it begins anew. One that was never told of this training is
            told all.
    """

    def __init__(self, run: RunFolder, config: Config, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._step = step if run.tensorboard.is_dir() and any(run.tensorboard.iterdir()) else 0
        self._board = SummaryWriter(str(run.tensorboard), purge_step=self._step + 1 if self._step else 0)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """As :class:`Tracker`."""
        for name, value in figures.items() if step > self._step else ():
            self._board.add_scalar(name, value, step)

    def end(self) -> None:
        """As :class:`Tracker`."""
        self._board.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in the project that ``WANDB_PROJECT`` names; arguments as :class:`TensorBoard`.

    It takes no step twice: one is told when all of its figures are there, also those of the epoch that it ends. Of a
    training that is killed between these it is told again as a whole.
    """

    def __init__(self, run: RunFolder, config: Config, step: int) -> None:
        import wandb

        identifier = _identifier(run, "wandb", step, lambda: secrets.token_hex(8))
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=_name(run),
            id=identifier,
            resume="allow",
            config=dict(_flat(config)),
            dir=str(run.path),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._first = self._run.step  # that it has not
        self._step, self._figures = 0, dict[str, float]()

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """As :class:`Tracker`."""
        if step < self._first:
            return
        if step > self._step:
            self._tell()
        self._step = step
        self._figures |= figures

    def end(self) -> None:
        """As :class:`Tracker`."""
        self._tell()
        self._run.finish()

    def _tell(self) -> None:
        figures, self._figures = self._figures, {}
        if figures:
            self._run.log(figures, step=self._step)


class MLflow:
    """A run of MLflow, in the experiment that ``MLFLOW_EXPERIMENT_NAME`` names; arguments as :class:`TensorBoard`."""

    def __init__(self, run: RunFolder, config: Config, step: int) -> None:
        import mlflow
        from mlflow.entities import Param

        self._client: Any = mlflow.MlflowClient()

        def begun() -> str:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if found is None else found.experiment_id
            return str(self._client.create_run(experiment, run_name=_name(run)).info.run_id)

        self._run = _identifier(run, "mlflow", step, begun)
        self._client.update_run(self._run, status="RUNNING")
        has = self._client.get_run(self._run).data
        lacking = [Param(key, str(value)) for key, value in _flat(config) if key not in has.params]
        self._client.log_batch(self._run, params=lacking)
        self._taken = {
            (name, point.step) for name in has.metrics for point in self._client.get_metric_history(self._run, name)
        }

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """As :class:`Tracker`."""
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        points = [Metric(*item, now_ms, step) for item in figures.items() if (item[0], step) not in self._taken]
        if points:
            self._client.log_batch(self._run, metrics=points)

    def end(self) -> None:
        """As :class:`Tracker`."""
        self._client.set_terminated(self._run)


class _Kind(NamedTuple):
    make: Callable[[RunFolder, Config, int], Tracker]
    is_remote: bool


TRACKERS: Mapping[str, _Kind] = {
    "tensorboard": _Kind(TensorBoard, is_remote=False),
    "wandb": _Kind(WeightsAndBiases, is_remote=True),
    "mlflow": _Kind(MLflow, is_remote=True),
}
"""Name in the configuration, which is that of its package, -> what it is."""


class _Remote:
    """A tracker behind a network, told on a thread of its own: the training neither waits for it nor ends with it.

    At its end the training waits a while for the last figures to arrive, and no longer: nor does Python wait for the
    thread, which a server that does not answer would hold for ever.
    """

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._tell, args=(make,), daemon=True, name=name)
        self._thread.start()

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """As :class:`Tracker`."""
        self._work.put(lambda tracker: tracker.log(figures, step))

    def end(self) -> None:
        """As :class:`Tracker`."""
        self._work.put(lambda tracker: tracker.end())
        self._work.put(None)
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            logger.warning(
                "trackers: %s has not taken the last figures within %g s, and is not waited for any longer; "
                "train_log.jsonl has all",
                self._name,
                _PATIENCE_S,
            )

    def _tell(self, make: Callable[[], Tracker]) -> None:
        try:
            tracker = make()
            while (work := self._work.get()) is not None:
                work(tracker)
        except (Exception, SystemExit) as error:  # a library may try to end the program
            logger.warning(
                "trackers: %s is told nothing more of this training, which goes on (%s: %s); train_log.jsonl has all, "
                "and when the training is gone on with, %s is told what it lacks",
                self._name,
                type(error).__name__,
                error,
                self._name,
            )


def refuse_missing(names: Sequence[str]) -> None:
    """Refuse trackers whose packages are not installed.

    Raises:
        RecipeError: one is not; its message says how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            extra = "trackers" if TRACKERS[name].is_remote else "train"
            raise RecipeError(
                f"trackers: found {name}, whose package is not installed: {installation(extra)}; or leave it out"
            )


def begin(run: RunFolder, config: Config, step: int) -> list[Tracker]:
    """The trackers of a training that has told them of its steps up to one."""

    def begun(name: str) -> Tracker:
        kind = TRACKERS[name]
        return _Remote(name, lambda: kind.make(run, config, step)) if kind.is_remote else kind.make(run, config, step)

    return [begun(name) for name in dict.fromkeys(config.trackers)]


def _identifier(run: RunFolder, name: str, step: int, make: Callable[[], str]) -> str:
    """By which a tracker knows the run; it is kept in the run's folder."""
    path = run.tracker(name)
    if step and path.is_file():
        return read_text(path).strip()
    identifier = make()
    write_text(path, f"{identifier}\n")
    return identifier


def _name(run: RunFolder) -> str:
    """The last two folders: of the corpus, and of the run."""
    return "/".join(run.path.absolute().parts[-2:])


def _flat(config: Config) -> list[tuple[str, object]]:
    """What the weights depend on."""
    return list(settings_of(config).items())

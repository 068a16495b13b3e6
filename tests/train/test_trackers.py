"""Trackers: told each figure of each step once, by a training that is killed and goes on, and never its end."""

import dataclasses
import importlib.machinery
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wespeaker_qm import stages
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.train import trackers
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder


class FakeWandb(types.ModuleType):
    """A server that keeps its runs, and takes no step twice."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.began: list[dict[str, Any]] = []
        self.is_down = False

    def Settings(self, **_: Any) -> None:  # noqa: N802
        """Of no matter here."""

    def init(self, **options: Any) -> types.SimpleNamespace:
        self.began.append(options)
        told = self.runs.setdefault(options["id"], [])

        def log(figures: dict[str, float], step: int) -> None:
            if self.is_down:
                raise ConnectionError("no route to host")
            told.append((step, figures))

        first = told[-1][0] + 1 if told else 0
        return types.SimpleNamespace(step=first, log=log, finish=lambda: self.began[-1].update(ended=True))


class FakeMLflow(types.ModuleType):
    """A server that takes whatever it is told."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = importlib.machinery.ModuleSpec("mlflow", None)
        self.entities = types.SimpleNamespace(
            Metric=lambda key, value, time_ms, step: types.SimpleNamespace(key=key, value=value, step=step),
            Param=lambda key, value: types.SimpleNamespace(key=key, value=value),
        )
        self.points: list[Any] = []
        self.params: list[Any] = []
        self.statuses: list[str] = []
        self.num_runs = 0

    def MlflowClient(self) -> "FakeMLflow":  # noqa: N802
        return self

    def get_experiment_by_name(self, name: str) -> None:
        """There is none."""

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.num_runs += 1
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"{experiment}-{self.num_runs}"))

    def update_run(self, run: str, status: str) -> None:
        self.statuses.append(status)

    def set_terminated(self, run: str) -> None:
        self.statuses.append("FINISHED")

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert run == "wespeaker_qm-1"
        self.points += metrics
        self.params += params

    def get_run(self, run: str) -> Any:
        params = {param.key: param.value for param in self.params}
        return types.SimpleNamespace(
            data=types.SimpleNamespace(metrics={point.key: 0 for point in self.points}, params=params)
        )

    def get_metric_history(self, run: str, key: str) -> list[Any]:
        return [point for point in self.points if point.key == key]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    return fake


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> Iterator[Any]:
    config = dataclasses.replace(
        tiny_config,
        num_epochs=2,
        valid_epoch_interval=0,
        save_step_interval=2,
        log_batch_interval=1,
        trackers=("tensorboard", "wandb", "mlflow"),
    )
    config.save(tmp_path / "conf.yaml")
    paths = {"data": tiny_corpus, "run": tmp_path / "exp", "config": tmp_path / "conf.yaml"}
    yield lambda *overrides: stages.train(**paths, overrides=overrides)


class Killed(BaseException):
    """Nothing catches it."""


def test_a_training_that_goes_on_tells_each_step_once(
    train: Any, wandb: FakeWandb, mlflow: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Any
) -> None:
    """It is killed after step 4 has been told, and goes on from the state of step 2."""
    with monkeypatch.context() as patch:
        step = Trainer._step

        def dying(self: Trainer, index: int, batch: Any) -> None:
            step(self, index, batch)
            if index == 4:
                raise Killed

        patch.setattr(Trainer, "_step", dying)
        patch.setattr(Trainer, "_is_save_due", lambda self: self.step == 2)
        save = Trainer._save
        patch.setattr(Trainer, "_save", lambda self, epoch=None: None if epoch else save(self))
        with pytest.raises(Killed):
            train()
    (told,) = wandb.runs.values()
    assert told[-1][0] == 4
    train()
    (told,) = wandb.runs.values()
    log = [(record["type"], record["step"]) for record in records(RunFolder(tmp_path / "exp"))]
    found = [(kind, number) for number, figures in told for kind in dict.fromkeys(n.partition("/")[0] for n in figures)]
    assert found == log
    assert [number for number, _ in told] == [1, 2, 3, 4, 5, 6]
    assert all(options["ended"] and options["resume"] == "allow" for options in wandb.began)
    points = [(point.key, point.step) for point in mlflow.points]
    assert len(points) == len(set(points))
    assert [number for key, number in points if key == "step/loss"] == [1, 2, 3, 4, 5, 6]
    assert [number for key, number in points if key == "epoch/samples"] == [3, 6]
    assert {param.key: param.value for param in mlflow.params}["projection_args.alpha"] == "1.5"
    assert mlflow.statuses == ["RUNNING", "FINISHED"] * 2
    assert list(RunFolder(tmp_path / "exp").tensorboard.iterdir())


def test_a_tracker_that_fails_is_told_once_and_gets_the_rest_later(
    train: Any, wandb: FakeWandb, mlflow: FakeMLflow, tmp_path: Path, caplog: Any
) -> None:
    wandb.is_down = True
    train()
    assert (
        caplog.text.count("trackers: wandb is told nothing more of this training, which goes on (ConnectionError:") == 1
    )
    assert RunFolder(tmp_path / "exp").model(2).is_file()
    assert [number for key, number in [(p.key, p.step) for p in mlflow.points] if key == "step/loss"] == list(
        range(1, 7)
    )


def test_a_step_of_which_half_was_told_is_told_whole_when_the_training_goes_on(
    tiny_config: Config, tmp_path: Path, wandb: FakeWandb
) -> None:
    """It was killed between the record of a step and that of the epoch which the step ended."""
    run = RunFolder(tmp_path)
    for step, kinds in ((0, ["step"]), (2, ["step", "epoch"])):
        tracker = trackers.WeightsAndBiases(run, tiny_config, step)
        for kind in kinds:
            tracker.log({f"{kind}/loss": 1.0}, 3)
    tracker.end()
    (told,) = wandb.runs.values()
    assert told == [(3, {"step/loss": 1.0, "epoch/loss": 1.0})]


def test_a_training_that_goes_on_before_it_told_anything_goes_on_with_its_run(
    train: Any, mlflow: FakeMLflow, wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is of step 2, its first record of step 5."""
    with monkeypatch.context() as patch:
        save = Trainer._save

        def dying(self: Trainer, epoch: int | None = None) -> None:
            save(self, epoch)
            raise Killed

        patch.setattr(Trainer, "_save", dying)
        with pytest.raises(Killed):
            train("log_batch_interval=5")
    train("log_batch_interval=5")
    assert len(wandb.runs) == mlflow.num_runs == 1


def test_a_tracker_that_joins_later_is_told_all(
    tiny_config: Config, tmp_path: Path, wandb: FakeWandb, mlflow: FakeMLflow
) -> None:
    run = RunFolder(tmp_path)
    board = trackers.TensorBoard(run, tiny_config, 4)
    added: list[int] = []
    board._board.add_scalar = lambda name, value, step: added.append(step)
    late = [board, trackers.WeightsAndBiases(run, tiny_config, 4), trackers.MLflow(run, tiny_config, 4)]
    for step in (2, 4, 6):
        for tracker in late:
            tracker.log({"step/loss": 1.0}, step)
    for tracker in late:
        tracker.end()
    (told,) = wandb.runs.values()
    assert added == [step for step, _ in told] == [point.step for point in mlflow.points] == [2, 4, 6]
    assert mlflow.params


def test_a_tracker_that_does_not_answer_holds_no_training(
    train: Any, wandb: FakeWandb, mlflow: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Nor the end of the program: its thread is one that Python does not wait for."""
    answer = threading.Event()
    monkeypatch.setattr(trackers, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(mlflow, "log_batch", lambda *_, **__: answer.wait())
    try:
        train()
        (silent,) = (thread for thread in threading.enumerate() if thread.name == "mlflow")
        assert silent.daemon
    finally:
        answer.set()
    silent.join()
    assert RunFolder(tmp_path / "exp").model(2).is_file()
    assert caplog.text.count("trackers: mlflow has not taken the last figures within 0.01 s") == 1


def test_a_tracker_that_would_end_the_program_ends_itself(
    train: Any, wandb: FakeWandb, mlflow: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(wandb, "init", lambda **_: sys.exit("no key"))
    train()
    assert (
        caplog.text.count("trackers: wandb is told nothing more of this training, which goes on (SystemExit: no") == 1
    )
    assert RunFolder(tmp_path / "exp").model(2).is_file()


def test_a_tracker_that_is_not_installed_is_refused_before_the_training(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(RecipeError, match=r"trackers: found wandb, whose package is not installed: .*\[trackers\]"):
        train()
    assert not (tmp_path / "exp").exists()


def test_another_name_is_refused(tiny_yaml: Path) -> None:
    with pytest.raises(RecipeError, match=r"trackers.*found 'comet'"):
        load_config([tiny_yaml], ["trackers=[comet]"])

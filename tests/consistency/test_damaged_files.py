"""No file that we write loads silently when it is not what was written: bits are flipped, ends cut, files exchanged."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from wespeaker_qm.config import load_config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.report.training_history import read_training_history
from wespeaker_qm.score.calibration import Calibration
from wespeaker_qm.score.calibration_check import EerCheck
from wespeaker_qm.score.calibration_file import load_calibration, save_calibration
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.train.log import LogWriter
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.checksums import checked_path, checksum_path
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.vectors import VectorTable, write_vectors

NUM_FLIPS = 200
NAMES = [f"id{number:03d}-{number}" for number in range(30)]


class Case(NamedTuple):
    """Files of one kind, in ``folder``."""

    write: Callable[[Path, int], None]
    """With a seed, so that two calls write two runs."""
    files: tuple[str, ...]
    """All that it writes, but for the checksums."""
    read: Callable[[Path], Any]


def _write_vectors(folder: Path, seed: int) -> None:
    write_vectors(folder, "xvector", NAMES, np.random.default_rng(seed).standard_normal((30, 8)).astype(np.float32))


def _read_vectors(folder: Path) -> Any:
    return VectorTable(folder / "xvector.scp").load(NAMES)


def _model(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer{number}.weight": torch.randn(16, 9, generator=generator) for number in range(3)}


def _write_foreign_model(folder: Path, seed: int) -> None:
    torch.save(_model(seed), folder / "theirs.pt")


def _write_resume(folder: Path, seed: int) -> None:
    state = {"epoch": seed, "config": "seed: 1\n", "speakers": NAMES, "model": _model(seed), "rng": torch.arange(9)}
    checkpoint.save(state, folder / "step_7.pt")


def _write_mean(folder: Path, seed: int) -> None:
    with checked_path(folder / "mean_vec.npy") as temporary:
        np.save(temporary, np.random.default_rng(seed).standard_normal(64).astype(np.float32))


def _write_score(folder: Path, seed: int, text: bool) -> None:
    rng = np.random.default_rng(seed)
    pairs = np.array([(one, two) for one in range(10) for two in range(10, 20)], np.int32)
    trials = TrialTable(folder / "trials", NAMES[:20], pairs[:, 0], pairs[:, 1], rng.random(100) < 0.2)
    write_scores(folder / "x.score", trials, rng.standard_normal(100), rng.standard_normal((100, 4)), text=text)


def _write_text_score(folder: Path, seed: int) -> None:
    _write_score(folder, seed, text=True)


def _write_lone_cache(folder: Path, seed: int) -> None:
    _write_score(folder, seed, text=False)


def _read_score(folder: Path) -> Any:
    trials, scores, measures = read_scores(folder / "x.score")
    names = [trials.names(trial) for trial in range(len(scores))]
    return names, trials.is_target, scores, measures


def _write_calibration(folder: Path, seed: int) -> None:
    model = Calibration(
        measures=[], low=[], high=[], centre=[], target_mean=float(seed), nontarget_mean=-1.25, target_slope=[],
        nontarget_slope=[], deviation=3.5, base=(1.0, -0.75), full=(1.0, -0.75),
    )  # fmt: skip
    save_calibration(folder / "calibration.json", model, {"all": EerCheck(0.1, 0.1, 1e-9, 0.5)})


def _write_config(folder: Path, seed: int) -> None:
    load_config([Path("conf/resnet34.yaml")], [f"seed={seed}"]).save(folder / "config.yaml")


def _write_log(folder: Path, seed: int) -> None:
    with contextlib.closing(LogWriter(RunFolder(folder), 0)) as log:
        for epoch in range(1, 6):
            log.write("step", epoch=epoch, step=10 * epoch, loss=4.5 / epoch + seed)
            log.write("epoch", epoch=epoch, step=10 * epoch, loss=4.25 / epoch + seed, samples=640 * epoch, minutes=0.5)
    shutil.rmtree(folder / "tensorboard")


def _plain(value: Any) -> Any:
    """Tensors as arrays, which can be compared in depth."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _load_model(folder: Path) -> Any:
    (path,) = folder.glob("*.pt")
    return _plain(checkpoint.load(path))


CASES = {
    "embeddings": Case(_write_vectors, ("xvector.ark", "xvector.scp"), _read_vectors),
    "avg_model.pt": Case(
        lambda folder, seed: checkpoint.save(_model(seed), folder / "avg_model.pt"),
        ("avg_model.pt",),
        _load_model,
    ),
    "a checkpoint from elsewhere": Case(_write_foreign_model, ("theirs.pt",), _load_model),
    "the state of a training": Case(_write_resume, ("step_7.pt",), _load_model),
    "mean_vec.npy": Case(_write_mean, ("mean_vec.npy",), lambda folder: load_mean(folder / "mean_vec.npy")),
    "scores": Case(_write_text_score, ("x.score", "x.score.npz"), _read_score),
    "scores without a text": Case(_write_lone_cache, ("x.score.npz",), _read_score),
    "calibration.json": Case(
        _write_calibration, ("calibration.json",), lambda folder: load_calibration(folder / "calibration.json")
    ),
    "train_log.jsonl": Case(
        _write_log, ("train_log.jsonl",), lambda folder: vars(read_training_history(folder / "train_log.jsonl"))
    ),
    "config.yaml": Case(_write_config, ("config.yaml",), lambda folder: load_config([folder / "config.yaml"])),
}
FILES = [
    pytest.param(case, name, id=f"{kind}: {name}" if len(case.files) > 1 else kind)
    for kind, case in CASES.items()
    for name in case.files
]


def _silent(case: Case, folder: Path, path: Path, versions: list[bytes]) -> list[bytes]:
    """Those versions of a file that are read, and give another result than the file."""
    whole, expected = path.read_bytes(), case.read(folder)
    silent = []
    for version in versions:
        path.write_bytes(version)
        try:
            found = case.read(folder)
        except RecipeError as error:
            assert folder.name in str(error)
            continue
        try:
            np.testing.assert_equal(found, expected)
        except AssertionError:
            silent.append(version)
    path.write_bytes(whole)
    return silent


@pytest.mark.parametrize(("case", "name"), FILES)
def test_no_flipped_bit_is_silent(tmp_path: Path, case: Case, name: str) -> None:
    case.write(tmp_path, 1)
    whole = (tmp_path / name).read_bytes()
    versions = []
    for bit in np.random.default_rng(5).integers(8 * len(whole), size=NUM_FLIPS).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        versions.append(bytes(damaged))
    assert not _silent(case, tmp_path, tmp_path / name, versions)


@pytest.mark.parametrize(("case", "name"), FILES)
def test_no_cut_is_silent(tmp_path: Path, case: Case, name: str) -> None:
    case.write(tmp_path, 1)
    whole = (tmp_path / name).read_bytes()
    lengths = np.random.default_rng(6).integers(len(whole), size=40).tolist()
    lengths += [position + 1 for position, byte in enumerate(whole[:-1]) if byte == ord("\n")][:40]
    assert not _silent(case, tmp_path, tmp_path / name, [b"", *(whole[:length] for length in lengths)])


@pytest.mark.parametrize(("case", "name"), [each for each in FILES if "elsewhere" not in str(each.id)])
def test_a_file_of_another_run_is_not_silent(tmp_path: Path, case: Case, name: str) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder, seed in ((own, 1), (other, 2)):
        folder.mkdir()
        case.write(folder, seed)
    assert not _silent(case, own, own / name, [(other / name).read_bytes()])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_files_without_checksums_are_read(tmp_path: Path, case: Case) -> None:
    """As WeSpeaker's are: it writes none."""
    case.write(tmp_path, 1)
    expected = case.read(tmp_path)
    for path in tmp_path.glob("*.crc32"):
        path.unlink()
    np.testing.assert_equal(case.read(tmp_path), expected)


def test_a_file_put_there_on_purpose_is_accepted_as_the_message_says(tmp_path: Path) -> None:
    checkpoint.save(_model(1), tmp_path / "avg_model.pt")
    torch.save(_model(2), tmp_path / "avg_model.pt")
    with pytest.raises(RecipeError, match=r"on purpose, delete .*avg_model\.pt\.crc32"):
        checkpoint.load(tmp_path / "avg_model.pt")
    checksum_path(tmp_path / "avg_model.pt").unlink()
    np.testing.assert_equal(_load_model(tmp_path), _plain(_model(2)))

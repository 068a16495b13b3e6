"""Models without a network: a folder that was never written, and embeddings that are a spectrum."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.enrolment.store import SpeakerStore, Voice
from wespeaker_qm.evaluate.operating_points import roc_steps
from wespeaker_qm.export.folder import (
    Curve,
    Evidence,
    FeatureCard,
    Histogram,
    ModelFolder,
    NetworkCard,
    ScoringCard,
)
from wespeaker_qm.speaker.speaker import Speaker

DIM, RATE = 24, 8000


class Spectrum:
    """The mean power in ``DIM`` bands."""

    sample_rate, embed_dim = RATE, DIM

    def embed(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        rows = []
        for waveform in waveforms:
            power = np.abs(np.fft.rfft(waveform, 2 * DIM * 40)) ** 2
            rows.append(np.log(power[: DIM * 40].reshape(DIM, 40).mean(axis=1) + 1e-3))
        return np.array(rows, np.float32)


def _evidence(num_nontargets: int = 1000, threshold: float | None = None) -> Evidence:
    """Of a list of normal scores: non-targets about 0, targets about 4; or with one threshold for all rates."""
    rng = np.random.default_rng(0)
    is_target = np.arange(num_nontargets + 200) < 200
    roc = roc_steps(rng.normal(size=len(is_target)) + 4 * is_target, is_target)
    curve = Curve(threshold=roc.threshold.tolist(), far=roc.far.tolist(), frr=roc.frr.tolist())
    if threshold is not None:
        curve = Curve(threshold=[threshold, -100.0], far=[0.0, 1.0], frr=[0.5, 0.0])
    edges = np.linspace(-4, 8, 25)
    return Evidence(
        corpus="tiny",
        trial_list="all",
        caveat="",
        num_targets=200,
        num_nontargets=num_nontargets,
        num_speakers=30,
        thresholds=[],
        curve=curve,
        histogram=Histogram(edges=edges.tolist(), target=[5] * 24, nontarget=[40] * 24),
        bandwidth_hz=None,
    )


def _model(
    fingerprint: str = "a" * 64,
    *,
    cohort_seed: int | None = 1,
    mean: float = 0.5,
    evidence: Evidence | None = None,
    dim: int = DIM,
) -> Speaker:
    """A model; None as a seed leaves the cohort out."""
    cohort = None
    if cohort_seed is not None:
        cohort = np.random.default_rng(cohort_seed).normal(size=(40, dim)).astype(np.float32)
    folder = ModelFolder(
        path=Path("exp/tiny/model"),
        fingerprint=fingerprint,
        network=NetworkCard(encoder="ResNet34", arguments={}, embed_dim=dim, min_frames=1),
        features=FeatureCard(
            sample_rate=RATE, num_mel_bins=16, frame_length_ms=25, frame_shift_ms=10, trim_silence=False
        ),
        scoring=ScoringCard(normalisation="asnorm", top_n=20, largest_change=0.0),
        calibration=None,
        evidence=evidence,
        training={},
        figures={},
        weights={},
        mean=np.full(dim, mean, np.float32),
        cohort=cohort,
    )
    return Speaker(folder, Spectrum())


@pytest.fixture(scope="session")
def evidence_of() -> Callable[..., Evidence]:
    return _evidence


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Speaker]:
    return _model


@pytest.fixture(scope="session")
def model() -> Speaker:
    return _model(evidence=_evidence())


@pytest.fixture
def store(tmp_path: Path) -> SpeakerStore:
    return SpeakerStore(tmp_path / "speakers.sqlite")


@pytest.fixture
def voices() -> Callable[..., list[Voice]]:
    """Function: recordings of one speaker, a number."""

    def make(speaker: int, count: int = 1, first: int = 0, dim: int = DIM) -> list[Voice]:
        centre = np.random.default_rng(speaker).normal(size=dim) * 3
        made = []
        for take in range(first, first + count):
            noise = np.random.default_rng([speaker, take]).normal(size=dim)
            embedding = (centre + 0.3 * noise).astype(np.float32)
            made.append(Voice(f"s{speaker}-{take}.wav", 1.5 + take, embedding))
        return made

    return make


@pytest.fixture
def tone() -> Callable[[float], np.ndarray]:
    """Function: two seconds of a buzz of this pitch."""

    def make(pitch_hz: float, seed: int = 0) -> np.ndarray:
        phase = 2 * np.pi * pitch_hz * np.arange(2 * RATE) / RATE
        noise = 0.01 * np.random.default_rng(seed).normal(size=2 * RATE)
        return (0.2 * np.sin(phase) + 0.1 * np.sin(2 * phase) + noise).astype(np.float32)

    return make

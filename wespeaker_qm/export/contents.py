"""What a model folder says of its network, features, scoring and evidence: the objects of ``model.json``.

Legend: D embedding dimension, K points of a curve, B bins.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Normalisation = Literal["asnorm", "snorm", "cosine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """Which network the weights are of."""

    encoder: str
    """Key of :data:`wespeaker_qm.config.model.MODELS`."""
    arguments: dict[str, Any]
    """Its sizes (``model_args``)."""
    embed_dim: int
    """D."""
    min_frames: int
    """The fewest frames that it can embed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCard:
    """What the network is given of a recording: the log mel energies of :mod:`wespeaker_qm.audio.fbank`, less their
    mean over time; no dither.
    """

    sample_rate: int
    """In Hz; recordings of another rate are resampled, and all are rounded to 16 bits."""
    num_mel_bins: int
    frame_length_ms: float
    frame_shift_ms: float
    trim_silence: bool
    """Whether the digital silence in a recording is left out (:mod:`wespeaker_qm.audio.silence`)."""

    def __post_init__(self) -> None:
        """Refuse what no filter bank has, and what would fill the memory."""
        frames = (self.frame_length_ms, self.frame_shift_ms)
        if not (1_000 <= self.sample_rate <= 768_000 and 1 <= self.num_mel_bins <= 10_000):
            raise ValueError(f"{self.sample_rate} Hz and {self.num_mel_bins} mel bins")
        if not all(0.1 <= each <= 10_000 for each in frames):
            raise ValueError(f"frames of {self.frame_length_ms} ms every {self.frame_shift_ms} ms")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringCard:
    """How embeddings become a score: the cosine less the training mean, normalised against the cohort."""

    normalisation: Normalisation
    top_n: int | None
    """How many of the nearest cohort speakers count; None for all of them, or without a cohort."""
    largest_change: float
    """By which storing the cohort in fewer bits changes a score of the headline list; 0 in float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """Where to decide so that so many impostors at most are accepted."""

    far: float
    """Wanted false-accept rate, a fraction."""
    threshold: float | None
    """The lowest with that rate on the list; None where the list has too few trials to measure it."""
    interval: tuple[float, float] | None
    """95 %, for other speakers of this kind."""
    no_interval: str | None
    """Why there is no threshold, or none with an interval."""
    tar: float | None
    """Share of the list's target trials that it accepts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Operating points of the headline list, threshold falling: those at which a curve of it looks the same."""

    threshold: list[float]
    """(K,)"""
    far: list[float]
    """(K,) false-accept rate."""
    frr: list[float]
    """(K,) miss rate."""

    def __post_init__(self) -> None:
        """Refuse lists of different lengths."""
        if not 0 < len(self.threshold) == len(self.far) == len(self.frr):
            raise ValueError("a curve of unequal lists")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram:
    """Scores of the headline list in B bins of equal width."""

    edges: list[float]
    """(B + 1,)"""
    target: list[int]
    """(B,) trials of one speaker."""
    nontarget: list[int]
    """(B,) trials of two."""

    def __post_init__(self) -> None:
        """Refuse lists of different lengths."""
        if not len(self.edges) - 1 == len(self.target) == len(self.nontarget):
            raise ValueError("a histogram of unequal lists")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What thresholds rest on: the scores of a trial list, normalised as ``scoring`` says."""

    corpus: str
    trial_list: str
    caveat: str
    """What figures of that corpus must not be taken for; may be empty."""
    num_targets: int
    num_nontargets: int
    num_speakers: int | None
    """None where it is not known who speaks."""
    thresholds: list[Threshold]
    curve: Curve
    histogram: Histogram
    bandwidth_hz: float | None
    """Median highest frequency in its recordings; None where it was not measured."""


def evidence_from_json(entry: Mapping[str, Any]) -> Evidence:
    """What the description holds of it, read back."""
    thresholds = [
        Threshold(**{**each, "interval": None if each["interval"] is None else tuple(each["interval"])})
        for each in entry["thresholds"]
    ]
    parts = {"curve": Curve(**entry["curve"]), "histogram": Histogram(**entry["histogram"]), "thresholds": thresholds}
    return Evidence(**{**entry, **parts})

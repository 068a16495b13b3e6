"""Use a trained model: embeddings of recordings, and whether two are of one speaker.

Legend: N recordings or windows, D embedding dimension.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.speaker.decision import Decision, check_far, refusal_notes, rests_on, threshold_at
from wespeaker_qm.speaker.listening import Listening, listen
from wespeaker_qm.speaker.network import EmbeddingNetwork
from wespeaker_qm.speaker.recordings import Audio, Recording, network_input, read_recording
from wespeaker_qm.speaker.scoring import Scorer
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.extras import installation

Item = TypeVar("Item")

BATCH = 16
"""Recordings that are read and embedded together by default."""


class Windows(NamedTuple):
    """Embeddings of a long recording, one a window."""

    start_s: NDArray[np.float64]
    """(N,)"""
    end_s: NDArray[np.float64]
    """(N,)"""
    embeddings: NDArray[np.float32]
    """(N, D)"""


class Heard(NamedTuple):
    """A recording, and what a model makes of it."""

    name: str
    embedding: NDArray[np.float32]
    """(D,) raw."""
    listening: Listening
    warnings: tuple[str, ...]
    """What a reader of its scores must know, a sentence each."""


class Speaker:
    """A trained model::

        model = Speaker.load("exp/mini/qmargin_a1.5/model")
        model.embed("a.wav")                                  # (D,) float32
        model.verify("a.wav", "b.wav", far=1e-3).same

    A model may be used by several threads at once.

    Args:
        folder: what was trained, and measured of it.
        network: what computes embeddings; of the folder's weights.
    """

    def __init__(self, folder: ModelFolder, network: EmbeddingNetwork) -> None:
        self.info = folder
        """What is known of the model: training, evidence, thresholds."""
        self.network = network
        self.scorer = Scorer(folder)
        """Scores of many embeddings at once."""

    @classmethod
    def load(cls, path: Path | str, *, device: str = "auto") -> Self:
        """Read a model.

        Args:
            path: a model folder (stage 8 of run.sh), a zip of one, or the ``.onnx`` file of a model, which needs no
                torch and nothing beside it.
            device: ``auto`` (the GPU if there is one), ``cpu`` or ``cuda``.

        Raises:
            RecipeError: there is none, it is damaged or of a later version, or there is no GPU where one was asked for.
        """
        path = Path(path)
        if path.suffix == ".onnx":
            from wespeaker_qm.speaker.onnx_network import OnnxNetwork

            graph = OnnxNetwork(path, device)
            return cls(ModelFolder.in_metadata(path, graph.metadata), graph)
        folder = ModelFolder.read(path)
        try:
            from wespeaker_qm.speaker.torch_network import TorchNetwork  # takes seconds
        except ModuleNotFoundError as error:
            raise RecipeError(
                f"{path}: needs the package {error.name}, which is not installed: {installation('train')}; "
                "or name the .onnx file of a model, which needs no torch"
            ) from error
        return cls(folder, TorchNetwork(folder, device))

    @property
    def sample_rate(self) -> int:
        """Of the audio that the network takes, in Hz; recordings of any other are resampled."""
        return self.info.features.sample_rate

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.info.network.embed_dim

    @property
    def fingerprint(self) -> str:
        """Models with the same one embed alike; embeddings of models with different ones cannot be compared."""
        return self.info.fingerprint

    def embed(
        self, recordings: Recording | Sequence[Recording], *, sample_rate: int | None = None, batch: int = BATCH
    ) -> NDArray[np.float32]:
        """Embeddings as stage 4 extracts them: raw, from which scoring subtracts the training mean.

        Args:
            recordings: a path, ``-`` for standard input, a binary file object, samples (S,), or a list of these.
            sample_rate: of samples, in Hz.
            batch: how many recordings of a list are read and embedded together.

        Returns:
            (D,) float32, of a list (N, D).

        Raises:
            RecipeError: a recording cannot be used; it is named.
        """
        if isinstance(recordings, Sequence) and not isinstance(recordings, str):
            rows = [self._embed(self._read(each, sample_rate)) for each in _groups(recordings, batch)]
            return np.concatenate(rows) if rows else np.empty((0, self.embed_dim), np.float32)
        single: NDArray[np.float32] = self._embed(self._read([recordings], sample_rate))[0]
        return single

    def embed_windows(
        self,
        recording: Recording,
        window_s: float = 3.0,
        step_s: float = 1.5,
        *,
        sample_rate: int | None = None,
        batch: int = BATCH,
    ) -> Windows:
        """Embeddings of a long recording, one a window; the last window ends with the recording.

        Args:
            recording: as :meth:`embed`.
            window_s: length of a window in seconds; a recording that is shorter is one window.
            step_s: from the beginning of one to that of the next, in seconds.
            sample_rate: of samples, in Hz.
            batch: how many windows are embedded together.

        Raises:
            RecipeError: the recording cannot be used, or a window is shorter than the network needs.
        """
        (audio,) = self._read([recording], sample_rate)
        features = self.info.features
        frames = Frames.of(features.sample_rate, features.frame_length_ms, features.frame_shift_ms)
        least = frames.num_samples(self.info.network.min_frames)
        window, step = round(window_s * self.sample_rate), round(step_s * self.sample_rate)
        if window < least or step < 1:
            raise RecipeError(
                f"windows of {window_s:g} s every {step_s:g} s, expected windows of at least "
                f"{least / self.sample_rate:g} s and a step above 0"
            )
        num_samples = len(audio.waveform)
        starts = [*range(0, max(1, num_samples - window), step), max(0, num_samples - window)]
        starts = sorted(set(starts))
        parts = [audio._replace(waveform=audio.waveform[start : start + window]) for start in starts]
        embeddings = np.concatenate([self._embed(each) for each in _groups(parts, batch)])
        start_s = np.array(starts) / self.sample_rate
        return Windows(start_s, np.minimum(start_s + window_s, num_samples / self.sample_rate), embeddings)

    def score(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        """Score of two embeddings (D,), normalised as stage 6 does where the model has a cohort.

        Of many embeddings: :attr:`scorer`.
        """
        return float(self.scorer.scores(self.scorer.sides(one), self.scorer.sides(other))[0, 0])

    def cosine(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        """Cosine of two embeddings (D,) less the training mean, as stage 5 scores."""
        return float(self.scorer.cosines(self.scorer.sides(one), self.scorer.sides(other))[0, 0])

    def listen(self, recording: Recording, *, sample_rate: int | None = None) -> Listening:
        """How much speech there is in a recording, and what is wrong with it; arguments as :meth:`embed`."""
        (audio,) = self._read([recording], sample_rate)
        return self._listen(audio)

    def hear(self, recording: Recording | Heard, *, sample_rate: int | None = None) -> Heard:
        """Embed a recording and listen to it; arguments and errors as those of :meth:`embed`.

        What was heard before is given back as it is, so that it may stand wherever a recording is asked for.
        """
        if isinstance(recording, Heard):
            return recording
        (audio,) = self._read([recording], sample_rate)
        listening = self._listen(audio)
        bandwidth_hz = None if self.info.evidence is None else self.info.evidence.bandwidth_hz
        warnings = listening.warnings(audio.name, bandwidth_hz)
        return Heard(audio.name, self._embed([audio])[0], listening, tuple(warnings))

    def verify(
        self, one: Recording | Heard, other: Recording | Heard, *, far: float = 1e-3, sample_rate: int | None = None
    ) -> Decision:
        """Decide whether two recordings are of one speaker.

        Args:
            one: a recording as :meth:`embed` takes it, or what :meth:`hear` has made of one.
            other: another.
            far: the share of impostors that may be accepted; with the threshold of
                :func:`wespeaker_qm.speaker.decision.threshold_at`.
            sample_rate: of samples, in Hz.

        Raises:
            RecipeError: a recording cannot be used, or ``far`` is no rate.
        """
        check_far(far)
        heard = [self.hear(each, sample_rate=sample_rate) for each in (one, other)]
        sides = self.scorer.sides(heard[0].embedding), self.scorer.sides(heard[1].embedding)
        duration_s = heard[0].listening.duration_s, heard[1].listening.duration_s
        score = float(self.scorer.scores(*sides)[0, 0])
        evidence = self.info.evidence
        threshold = threshold_at(evidence, far)
        return Decision(
            score=score,
            cosine=float(self.scorer.cosines(*sides)[0, 0]),
            llr=self.scorer.log_likelihood_ratio(score, sides, duration_s),
            same=None if threshold.value is None else score >= threshold.value,
            threshold=threshold.value,
            threshold_interval=threshold.interval,
            far=far,
            rests_on=rests_on(evidence),
            warnings=(
                *heard[0].warnings,
                *heard[1].warnings,
                *threshold.notes,
                *refusal_notes(evidence, threshold.value, score),
            ),
            seconds_of_speech=(heard[0].listening.speech_s, heard[1].listening.speech_s),
        )

    def _read(self, recordings: Sequence[Recording], sample_rate: int | None) -> list[Audio]:
        return [read_recording(each, self.info.features, sample_rate) for each in recordings]

    def _listen(self, audio: Audio) -> Listening:
        return listen(audio.original, audio.waveform, self.sample_rate)

    def _embed(self, audio: Sequence[Audio]) -> NDArray[np.float32]:
        """(N, D)"""
        min_frames = self.info.network.min_frames
        max_frames = self.network.max_frames
        inputs = [network_input(each, self.info.features, min_frames, max_frames) for each in audio]
        embeddings = self.network.embed(inputs)
        for each, row in zip(audio, embeddings, strict=True):
            if not np.isfinite(row).all():
                raise RecipeError(f"{each.name}: its embedding is not finite; listen to that recording")
        return embeddings


def _groups(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    if size < 1:
        raise RecipeError(f"batch: found {size}, expected at least 1")
    for first in range(0, len(items), size):
        yield items[first : first + size]

"""The network of an ``.onnx`` file by ONNX Runtime, with the features in NumPy: no torch.

Legend: N recordings or windows, S samples, T frames, W frames of a window, F mel bins, D embedding dimension.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.frames import FRAMES_PER_PIECE, Frames
from wespeaker_qm.audio.numpy_fbank import NumpyFbank, normalise_mean
from wespeaker_qm.audio.waveform import Waveform
from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.extras import installation

_FACTS = ("sample_rate", "num_mel_bins", "frame_length", "frame_shift", "min_frames", "output_dim")
_MOST = dict.fromkeys((*_FACTS, "window"), 1_000_000) | {"num_mel_bins": 10_000}
"""Of a fact: more would fill the memory."""
_MAX_FRAMES = 10 * FRAMES_PER_PIECE


class OnnxNetwork:
    """An :class:`~wespeaker_qm.speaker.network.EmbeddingNetwork`.

    Recordings go through the graph one at a time. Those of up to a minute go whole. Longer ones of a network of windows
    go some windows at a time, in the memory of a minute, and come out as they would whole, up to round-off. A graph
    without windows must have all frames at once, 200 MiB a minute where the network is the paper's: ten minutes are its
    most (``max_frames``).

    Args:
        path: a file that ``wespeaker-qm export --onnx`` has written, whether features are in the graph or not.
        device: ``cpu``; ``cuda`` where onnxruntime-gpu is installed; ``auto`` is the GPU if there is one for it.
        num_threads: on the CPU; by default OMP_NUM_THREADS, and as many as there are cores without it.

    Raises:
        RecipeError: no such file, none of an ONNX graph, or one that says nothing of its features; onnxruntime is not
            installed; there is no GPU for it where one was asked for.
    """

    def __init__(self, path: Path | str, device: str = "auto", num_threads: int | None = None) -> None:
        self.path = Path(path)
        self._session = _session(self.path, device, num_threads)
        self.metadata = self._metadata()
        """What is written in the file, key -> text."""
        facts = self._facts()
        self.sample_rate, self.embed_dim, self.min_frames = (
            facts["sample_rate"],
            facts["output_dim"],
            facts["min_frames"],
        )
        self._window = facts.get("window")
        self.max_frames = _MAX_FRAMES if self._window is None else None
        self._frames = Frames(facts["frame_length"], facts["frame_shift"])
        self._fbank = NumpyFbank(self.sample_rate, facts["num_mel_bins"], frames=self._frames)
        self._inputs = [each.name for each in self._session.get_inputs()]

    def embed(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embeddings (N, D) of waveforms (S,) in [-1, 1] at ``sample_rate``.

        Raises:
            RecipeError: a waveform has fewer frames than the network needs.
        """
        embeddings = np.empty((len(waveforms), self.embed_dim), np.float32)
        for row, waveform in enumerate(waveforms):
            if self._frames.num_frames(len(waveform)) < self.min_frames:
                raise RecipeError(
                    f"a waveform of {len(waveform)} samples has fewer than the {self.min_frames} frames that "
                    f"{self.path} needs, expected at least {self._frames.num_samples(self.min_frames)} samples; leave "
                    "it out"
                )
            embeddings[row] = self._embed(waveform)
        return embeddings

    def _embed(self, waveform: Waveform) -> NDArray[np.float32]:
        """(D,)"""
        num_frames = self._frames.num_frames(len(waveform))
        if self._window is None or num_frames <= FRAMES_PER_PIECE:
            return np.asarray(self._run(self.feed(waveform[:]))[0])
        # A window that is given alone is all the windows there are of it, and comes out as the embedding of one.
        starts = window_starts(num_frames, self._window)
        total = np.zeros(self.embed_dim)
        together = max(1, FRAMES_PER_PIECE // self._window)
        for first in range(0, len(starts), together):
            total += self._run(self._feed_windows(waveform, starts[first : first + together])).sum(axis=0, dtype=float)
        return (total / len(starts)).astype(np.float32)

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Embeddings (N, D)."""
        try:
            embeddings: NDArray[np.float32] = self._session.run(["embs"], inputs)[0]
        except Exception as error:  # onnxruntime's own have no base class but this
            raise RecipeError(f"{self.path}: its graph cannot be run ({error}); export the model again") from error
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embed_dim:
            raise RecipeError(
                f"{self.path}: its graph gives {embeddings.shape}, expected embeddings of {self.embed_dim} values; "
                "export the model again"
            )
        return embeddings

    def _feed_windows(self, waveform: Waveform, starts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What the graph takes of windows that begin at these frames; it takes their own mean from each."""
        window, shift = int(self._window or 0), self._frames.shift
        begin, end = int(starts[0]), int(starts[-1]) + window
        part = waveform[begin * shift : begin * shift + self._frames.num_samples(end - begin)]
        if self.metadata["features"] == "outside":
            return {"feats": self._fbank(part)[(starts - begin)[:, np.newaxis] + np.arange(window)]}
        samples = np.arange(self._frames.num_samples(window))
        return {"waveforms": part[(starts - begin)[:, np.newaxis] * shift + samples]}

    def feed(self, waveform: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What the graph takes of one waveform."""
        if self.metadata["features"] == "outside":
            return {"feats": normalise_mean(self._fbank(waveform))[np.newaxis]}
        inputs = {"waveforms": waveform[np.newaxis], "num_samples": np.array([len(waveform)])}
        return {name: value for name, value in inputs.items() if name in self._inputs}

    def _metadata(self) -> dict[str, str]:
        try:
            metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise RecipeError(f"{self.path}: its metadata are damaged ({error}); export the model again") from error
        return metadata

    def _facts(self) -> dict[str, int]:
        lacking = [name for name in (*_FACTS, "features") if name not in self.metadata]
        if lacking:
            raise RecipeError(
                f"{self.path}: its metadata have no {', '.join(lacking)}, expected a file of wespeaker-qm export, "
                "which says what features its network takes; export the model again (run.sh --stage 8)"
            )
        try:
            facts = {name: int(self.metadata[name]) for name in (*_FACTS, "window") if name in self.metadata}
            for name, value in facts.items():
                if not 1 <= value <= _MOST[name]:
                    raise ValueError(f"{name}: found {value}, expected 1 to {_MOST[name]:,}")
            return facts
        except ValueError as error:
            raise RecipeError(f"{self.path}: its metadata are damaged ({error}); export the model again") from error


def window_starts(num_frames: int, window: int) -> NDArray[np.int64]:
    """The first frames of the windows of an utterance: those of :func:`wespeaker_qm.models.encoder.window_frames`.

    Args:
        num_frames: T, more than ``window``.
        window: W.
    """
    room = num_frames - window
    steps = -(-room // (window // 2))
    return np.arange(steps + 1) * room // steps


def _session(path: Path, device: str, num_threads: int | None) -> Any:
    """ONNX Runtime with the graph of a file."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"{path}: needs the package onnxruntime, which is not installed: {installation('onnx')}"
        ) from error
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; run.sh --stage 8 writes one")
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not has_gpu:
        raise RecipeError(
            f"device: found cuda, but onnxruntime {onnxruntime.__version__} has no CUDA here; install onnxruntime-gpu "
            "in its place, or take the CPU (--device cpu)"
        )
    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device: found {shown(device)}, expected auto, cpu or cuda")
    options = onnxruntime.SessionOptions()
    threads = num_threads or os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if str(threads).isdecimal() else 0
    options.inter_op_num_threads = 1
    # Each recording has another length: memory that is laid out for one would be laid out anew for the next.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    providers = ["CUDAExecutionProvider"] if has_gpu and device != "cpu" else []
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no base class but this
        raise RecipeError(f"{path}: no ONNX graph that onnxruntime reads ({error}); export the model again") from error

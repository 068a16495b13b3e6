"""The network of an ``.onnx`` file by ONNX Runtime, with the features in NumPy: no torch.

Legend: N recordings, S samples, T frames, F mel bins, D embedding dimension.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.numpy_fbank import NumpyFbank, normalise_mean
from wespeaker_qm.utils.errors import RecipeError, shown

_FACTS = ("sample_rate", "num_mel_bins", "frame_length", "frame_shift", "min_frames", "output_dim")


class OnnxNetwork:
    """An :class:`~wespeaker_qm.speaker.network.EmbeddingNetwork`.

    Recordings go through the graph one at a time, whole: a minute takes some 200 MiB where the network is the paper's.

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
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        """What is written in the file, key -> text."""
        facts = self._facts()
        self.sample_rate, self.embed_dim, self.min_frames = (
            facts["sample_rate"],
            facts["output_dim"],
            facts["min_frames"],
        )
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
            (embeddings[row],) = self._session.run(["embs"], self.feed(waveform))[0]
        return embeddings

    def feed(self, waveform: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What the graph takes of one waveform."""
        if self.metadata["features"] == "outside":
            return {"feats": normalise_mean(self._fbank(waveform))[np.newaxis]}
        inputs = {"waveforms": waveform[np.newaxis], "num_samples": np.array([len(waveform)])}
        return {name: inputs[name] for name in self._inputs}

    def _facts(self) -> dict[str, int]:
        lacking = [name for name in (*_FACTS, "features") if name not in self.metadata]
        if lacking:
            raise RecipeError(
                f"{self.path}: its metadata have no {', '.join(lacking)}, expected a file of wespeaker-qm export, "
                "which says what features its network takes; export the model again (run.sh --stage 8)"
            )
        try:
            return {name: int(self.metadata[name]) for name in _FACTS}
        except ValueError as error:
            raise RecipeError(f"{self.path}: its metadata are damaged ({error}); export the model again") from error


def _session(path: Path, device: str, num_threads: int | None) -> Any:
    """ONNX Runtime with the graph of a file."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"{path}: needs the package onnxruntime, which is not installed: pip install 'wespeaker_qm[onnx]'"
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

"""A speaker network as an ONNX graph, for ONNX Runtime and what is built on it, with or without the features inside.

Legend: B batch, S samples, T frames, N frame length, K FFT size, F mel bins, D embedding dimension.

=============== ============================================ =====================================================
``features``    inputs                                       output
=============== ============================================ =====================================================
``outside``     ``feats`` (B, T, F), F or 80                  ``embs`` (B, D), of features of F bins less their mean
``inside``      ``waveforms`` (B, S) in [-1, 1], padded with  ``embs`` (B, D)
                anything; ``num_samples`` (B,), int64
=============== ============================================ =====================================================

``outside`` is what WeSpeaker's ``export_onnx.py`` writes, and its ``infer_onnx.py``, its runtimes and sherpa-onnx read.
Those always compute 80 bins. A network of another number takes 80 as well, and turns them into its own: powers of
neighbouring bins are added so that the sum comes as near its own filters as it can. sherpa-onnx computes its features a
little otherwise, whatever the network (window ``povey``, 20 to 7,600 Hz, half a frame more at either end), so that its
embeddings come near ours and are not the same (cosines above 0.99).

The spectrum is a convolution: to take the mean out of a frame, to emphasise, to weight and to transform it is all
linear, and one matrix. Operators are those of ONNX alone, opset 18.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.mel import FLOOR, PREEMPHASIS, hamming_window, mel_filters
from wespeaker_qm.models.encoder import SpeakerEncoder, StatisticsEncoder
from wespeaker_qm.utils.files import atomic_path

if TYPE_CHECKING:
    import onnx

Features = Literal["outside", "inside"]

OPSET = 18
SHERPA_BINS = 80
"""Mel bins that sherpa-onnx and WeSpeaker's inference compute, whatever the network."""
SHERPA_FRAMES_MS = 25, 10
"""Their length and shift."""
SHERPA_MARGIN_HZ = 400
"""How far below half the sample rate sherpa-onnx's filters end."""


def write_onnx(
    path: Path, encoder: SpeakerEncoder, fbank: Fbank, *, features: Features, metadata: Mapping[str, str]
) -> None:
    """Write a network as an ONNX file, atomically.

    Args:
        path: the file.
        encoder: the network in evaluation mode; its batch norms are folded.
        fbank: its filter bank, without dither.
        features: where they are computed.
        metadata: what readers are to know beside what :func:`graph_metadata` says.
    """
    import onnx

    lean = encoder.cpu().folded()
    model = _with_features(lean, fbank) if features == "inside" else _network(lean, fbank)
    onnx.helper.set_model_props(model, {**graph_metadata(lean, fbank, features), **metadata})
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def graph_metadata(encoder: SpeakerEncoder, fbank: Fbank, features: Features) -> dict[str, str]:
    """What the file says: what this package reads, and the keys of sherpa-onnx's speaker models where it is one."""
    about = {
        "features": features,
        "sample_rate": str(fbank.sample_rate),
        "num_mel_bins": str(fbank.num_mel_bins),
        "frame_length": str(fbank.frame_length),
        "frame_shift": str(fbank.frame_shift),
        "min_frames": str(encoder.min_frames),
        "output_dim": str(encoder.embed_dim),
    }
    if isinstance(encoder, StatisticsEncoder) and encoder.window is not None:
        about["window"] = str(encoder.window)
    if features == "inside" or fbank.frames != Frames.of(fbank.sample_rate, *SHERPA_FRAMES_MS):
        return about
    about |= {"framework": "wespeaker", "language": "multilingual", "normalize_samples": "0"}
    # Its 80 bins become those of a network of another number by their powers, before the mean goes.
    return about | ({"feature_normalize_type": "global-mean"} if fbank.num_mel_bins == SHERPA_BINS else {})


def _network(encoder: SpeakerEncoder, fbank: Fbank) -> "onnx.ModelProto":
    """The graph of the network alone, for features of the bins that it takes, or 80."""
    num_bins = fbank.num_mel_bins
    example = torch.zeros(2, 2 * encoder.min_frames, num_bins)
    model = _traced(_Outside(encoder), (example,), ["feats"], {"feats": {0: "B", 1: "T"}, "embs": {0: "B"}})
    if num_bins != SHERPA_BINS:
        _accept_sherpa_bins(model, merging_matrix(fbank))
    return model


def _with_features(encoder: SpeakerEncoder, fbank: Fbank) -> "onnx.ModelProto":
    """The graph from waveforms on."""
    length = fbank.num_samples(2 * encoder.min_frames)
    axes = {"waveforms": {0: "B", 1: "S"}, "num_samples": {0: "B"}, "embs": {0: "B"}}
    inputs: tuple[Tensor, ...] = (torch.zeros(2, length),)
    if encoder.masks_padding:
        inputs = (*inputs, torch.tensor([length, length - fbank.frame_shift]))
    return _traced(_Inside(encoder, fbank), inputs, ["waveforms", "num_samples"][: len(inputs)], axes)


class _Outside(nn.Module):
    """The network, for features all of one length."""

    def __init__(self, encoder: SpeakerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, feats: Tensor) -> Tensor:
        """(B, T, F) -> (B, D)."""
        embeddings: Tensor = self.encoder(feats)
        return embeddings


class _Inside(nn.Module):
    """Features and network: those of :class:`Fbank` and :class:`~wespeaker_qm.embed.extract.NetworkEmbedder`."""

    spectrum: Tensor
    filters: Tensor

    def __init__(self, encoder: SpeakerEncoder, fbank: Fbank) -> None:
        super().__init__()
        self.encoder = encoder
        self.frame_length, self.frame_shift = fbank.frame_length, fbank.frame_shift
        spectrum, filters = spectrum_and_filters(fbank)
        self.register_buffer("spectrum", torch.from_numpy(spectrum.astype(np.float32)).unsqueeze(1))
        self.register_buffer("filters", torch.from_numpy(filters.T.astype(np.float32)))

    def forward(self, waveforms: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """(B, S) and (B,) -> (B, D)."""
        if num_samples is None:
            features = self._log_energies(waveforms - waveforms.mean(dim=1, keepdim=True))
            embeddings: Tensor = self.encoder(features - features.mean(dim=1, keepdim=True))
            return embeddings
        # What is constant goes out of each frame anyway. Taken out before, it costs no digits.
        inside = torch.arange(waveforms.shape[1]) < num_samples[:, None]
        waveforms = torch.where(inside, waveforms, 0.0)
        mean = waveforms.sum(dim=1, keepdim=True) / num_samples[:, None]
        features = self._log_energies(waveforms - mean)
        num_frames = torch.div(num_samples - self.frame_length, self.frame_shift, rounding_mode="floor") + 1
        inside = (torch.arange(features.shape[1]) < num_frames[:, None]).unsqueeze(-1)
        mean = torch.where(inside, features, 0.0).sum(dim=1, keepdim=True) / num_frames[:, None, None]
        embeddings = self.encoder(torch.where(inside, features - mean, 0.0), num_frames)
        return embeddings

    def _log_energies(self, waveforms: Tensor) -> Tensor:
        """(B, S) -> (B, T, F)."""
        parts = nn.functional.conv1d(waveforms.unsqueeze(1), self.spectrum, stride=self.frame_shift).square()
        real, imaginary = parts.chunk(2, dim=1)
        return (((real + imaginary).transpose(1, 2)) @ self.filters).clamp_min(FLOOR).log()


def spectrum_and_filters(fbank: Fbank) -> tuple[np.ndarray, np.ndarray]:
    """What makes mel energies of a frame: products, squares of them, and sums of those.

    Returns:
        (2 M, N): what gives real, then imaginary parts, at the M frequencies where any filter has weight, of the frame
        less its mean, pre-emphasised and weighted; (F, M): the filters there. Both float64.
    """
    frames = np.eye(fbank.frame_length) - 1 / fbank.frame_length  # a row is the frame that one sample makes
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - PREEMPHASIS * before) * hamming_window(fbank.frame_length)
    filters = mel_filters(fbank.sample_rate, fbank.fft_size, fbank.num_mel_bins)
    used = np.flatnonzero(filters.any(axis=0))
    spectrum = np.fft.rfft(frames, fbank.fft_size)[:, used]
    return np.concatenate([spectrum.real, spectrum.imag], axis=1).T, filters[:, used]


def merging_matrix(fbank: Fbank) -> np.ndarray:
    """(80, F): how much of each of sherpa-onnx's mel energies goes into each of the filter bank's (least squares)."""
    from scipy.optimize import nnls

    highest_hz = fbank.sample_rate / 2 - SHERPA_MARGIN_HZ
    given = mel_filters(fbank.sample_rate, fbank.fft_size, SHERPA_BINS, highest_hz)
    wanted = mel_filters(fbank.sample_rate, fbank.fft_size, fbank.num_mel_bins)
    return np.stack([nnls(given.T, filter_)[0] for filter_ in wanted], axis=1)


def _accept_sherpa_bins(model: "onnx.ModelProto", merging: np.ndarray) -> None:
    """Let a graph take features of 80 bins beside those of its own number, in place.

    ::

        feats (B, T, F or 80) -> 80 bins? -> log(exp(feats) merging), less its mean over time -> network
                                 else     -> feats                                            -> network
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, num_bins = model.graph, merging.shape[1]
    own = "own_feats"
    for node in graph.node:
        node.input[:] = [own if name == "feats" else name for name in node.input]
    constants = {
        "merging": merging.astype(np.float32),
        "floor": np.float32(FLOOR),
        "over_time": np.array([1]),
        "last": np.array([2]),
        "sherpa_bins": np.array([SHERPA_BINS]),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())

    def branch(name: str, nodes: list[Any]) -> Any:
        output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["B", "T", num_bins])
        return helper.make_graph(nodes, name, [], [output])

    merged = [
        helper.make_node("Exp", ["feats"], ["powers"]),
        helper.make_node("MatMul", ["powers", "merging"], ["energies"]),
        helper.make_node("Max", ["energies", "floor"], ["floored"]),
        helper.make_node("Log", ["floored"], ["merged"]),
        helper.make_node("ReduceMean", ["merged", "over_time"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["merged", "mean"], ["normalised"]),
    ]
    choice = [
        helper.make_node("Shape", ["feats"], ["shape"]),
        helper.make_node("Gather", ["shape", "last"], ["num_bins"]),
        helper.make_node("Equal", ["num_bins", "sherpa_bins"], ["has_sherpa_bins"]),
        helper.make_node(
            "If",
            ["has_sherpa_bins"],
            [own],
            then_branch=branch("sherpa_bins_to_own", merged),
            else_branch=branch("own_bins", [helper.make_node("Identity", ["feats"], ["unchanged"])]),
        ),
    ]
    network = list(graph.node)
    del graph.node[:]
    graph.node.extend(choice + network)
    graph.input[0].type.tensor_type.shape.dim[2].dim_param = "F"


def _traced(
    module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], dynamic_axes: Mapping[str, Mapping[int, str]]
) -> "onnx.ModelProto":
    """The graph of a module as it treats examples of its inputs.

    By tracing: PyTorch's other exporter takes half a minute, and one more package, for the same graph.
    """
    import io

    import onnx

    buffer = io.BytesIO()
    with torch.no_grad(), _quietly():
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]
            input_names=names,
            output_names=["embs"],
            dynamic_axes={name: axes for name, axes in dynamic_axes.items() if name in (*names, "embs")},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    for node in model.graph.node:
        node.doc_string = ""  # paths on this machine
    return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the advice to use the other exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield

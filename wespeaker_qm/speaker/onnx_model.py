"""A model folder as one ``.onnx`` file, and that in 8 bits.

Legend: S samples.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network.onnx_graph import Features, write_onnx
from wespeaker_qm.speaker.onnx_network import OnnxNetwork
from wespeaker_qm.speaker.torch_network import build_network
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, temporary_folder

CALIBRATION_FRAMES = 400
"""Of each recording; the least and the greatest value of every map are sought."""


def write_onnx_model(folder: ModelFolder, path: Path, features: Features = "outside") -> None:
    """Write all of a model into an ``.onnx`` file: graph, scoring, calibration, thresholds.

    Args:
        folder: the model.
        path: the file.
        features: where they are computed (:mod:`wespeaker_qm.network.onnx_graph`).

    Raises:
        RecipeError: its weights do not fit its network; the package onnx is not installed.
    """
    encoder, fbank = build_network(folder)
    metadata = folder.metadata()
    write_onnx(path, encoder.eval(), fbank, features=features, metadata=metadata)


def write_int8_model(source: Path, path: Path, waveforms: Sequence[NDArray[np.float32]]) -> None:
    """Write a model's ``.onnx`` file with convolutions in 8 bits: a quarter of the size, and faster.

    Weights have a scale for each channel, and 7 bits, so that sums of products do not overflow on processors without
    instructions for 8 bits. Maps have one scale, from the least and the greatest value that some recordings give. The
    pooling and the last layer stay float32. Embeddings differ, and so does the model's fingerprint.

    Args:
        source: float32, features outside.
        path: the file to write.
        waveforms: some dozens of recordings (S,) of the kind that it is for, at its rate.

    Raises:
        RecipeError: ``source`` is no such file, or there are no waveforms.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    network = OnnxNetwork(source, "cpu", num_threads=1)
    if network.metadata["features"] != "outside":
        raise RecipeError(f"{source}: computes features in its graph, expected a file without; export it again")
    if not len(waveforms):
        raise RecipeError(f"{source}: no recordings to find the ranges of 8 bits with; name some")
    with temporary_folder(path) as folder, atomic_path(path) as temporary:
        prepared = folder / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(temporary),
            _Recordings(network, waveforms),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        _set_metadata(temporary, source, network)


class _Recordings:
    """What onnxruntime asks for recordings to find ranges with."""

    def __init__(self, network: OnnxNetwork, waveforms: Sequence[NDArray[np.float32]]) -> None:
        self._network, self._waveforms = network, iter(waveforms)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Inputs of the graph, of one recording after the other; then None."""
        waveform = next(self._waveforms, None)
        if waveform is None:
            return None
        return {name: value[:, :CALIBRATION_FRAMES] for name, value in self._network.feed(waveform).items()}


def _set_metadata(path: Path, source: Path, network: OnnxNetwork) -> None:
    """What the float32 file says, with a fingerprint of its own."""
    import onnx

    model = onnx.load(path)
    folder = ModelFolder.in_metadata(source, network.metadata)
    mark = hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()
    metadata = dataclasses.replace(folder, fingerprint=mark).metadata()
    onnx.helper.set_model_props(model, {**network.metadata, **metadata, "weights": "int8"})
    path.write_bytes(model.SerializeToString(deterministic=True))


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Add to the metadata of an ``.onnx`` file."""
    import onnx

    model = onnx.load(path)
    known = {each.key: each.value for each in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, **entries})
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))

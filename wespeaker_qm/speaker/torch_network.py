"""The network of a model folder by PyTorch: the code, and the bits, of stage 4."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.embed.extract import NetworkEmbedder
from wespeaker_qm.export.files import DESCRIPTION, WEIGHTS, damaged
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import encoder_named
from wespeaker_qm.network.device import choose_device


class TorchNetwork:
    """An :class:`~wespeaker_qm.speaker.network.EmbeddingNetwork`.

    Args:
        folder: the model.
        device: ``auto`` (the GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        RecipeError: its weights do not fit the network that it names, or there is no GPU where one was asked for.
    """

    max_frames: int | None = None  # long recordings go through it in pieces

    def __init__(self, folder: ModelFolder, device: str = "auto") -> None:
        encoder, fbank = build_network(folder)
        self.sample_rate = fbank.sample_rate
        self.embed_dim = encoder.embed_dim
        self._embedder = NetworkEmbedder(encoder, fbank, choose_device(device))

    def embed(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embeddings (N, D) of waveforms (S,); on a GPU they go through the network together.

        Raises:
            RecipeError: a waveform has fewer frames than the network needs.
        """
        embeddings: NDArray[np.float32] = self._embedder(waveforms)
        return embeddings


def build_network(folder: ModelFolder) -> tuple[SpeakerEncoder, Fbank]:
    """The network of a model with its weights, and its filter bank.

    Raises:
        RecipeError: the weights do not fit the network that it names.
    """
    network, features = folder.network, folder.features
    with torch.device("meta"):  # sizes that nobody has would fill the memory
        sizes = encoder_named(network.encoder, network.arguments, folder.path)
    state = {name: torch.from_numpy(value) for name, value in folder.weights.items()}
    checkpoint.refuse_other_shapes(sizes.state_dict(), state, folder.path / WEIGHTS)
    encoder = encoder_named(network.encoder, network.arguments, folder.path)
    checkpoint.load_encoder(encoder, state, folder.path / WEIGHTS)
    if (encoder.embed_dim, encoder.min_frames) != (network.embed_dim, network.min_frames):
        raise damaged(folder.path, DESCRIPTION, "embed_dim and min_frames are not those of its network")
    return encoder, Fbank(
        features.sample_rate, features.num_mel_bins, features.frame_length_ms, features.frame_shift_ms, dither=0.0
    )

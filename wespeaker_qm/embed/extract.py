"""Embeddings of whole utterances, for every utterance of a packed set.

Deterministic and full-precision: no dither, no cropping, IEEE float32 throughout (neither autocast nor TF32, which is
PyTorch's default for a GPU's convolutions). On a CPU each utterance goes through the network alone, so that its
embedding depends on no other to the last bit; batches were slower there for the paper's network, and a quarter faster
for a tiny one. On a GPU they are batched by length, and come out as they would alone up to round-off: a network that
does not mask padding is given those of one length at a time.
Utterances of over a minute are read and go through the network in pieces, where it allows that, and come out as they
would whole.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from wespeaker_qm.audio.bandwidth import bandwidth_hz
from wespeaker_qm.audio.fbank import Fbank, normalise_mean
from wespeaker_qm.audio.frames import FRAMES_PER_PIECE
from wespeaker_qm.audio.ltas import long_term_average_spectrum
from wespeaker_qm.audio.pieces import features_of, mean_features
from wespeaker_qm.audio.silence import without_silence
from wespeaker_qm.audio.waveform import Waveform
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.loading import Handing, handed, unchanged
from wespeaker_qm.utils.parallel import available_cpus
from wespeaker_qm.utils.precision import exact_float32
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.remedies import with_run_sh

FRAMES_PER_BATCH = 4000
"""Frames in a batch, padding counted in: enough to fill a GPU, small enough for the memory of a laptop."""

_MOST_READERS = 8
"""Each has two batches ready, of up to 2.6 MB at 16 kHz."""
_ALIGNED = 16
"""Samples of 64 bytes, at which an array of its own would begin: last digits may depend on it."""

Embedder = Callable[[Sequence[Waveform]], np.ndarray]
"""Waveforms -> embeddings (N, D) float32. Of long ones the samples are read as they are asked for."""


class NetworkEmbedder:
    """Embeds with a network in evaluation mode on its own device, in float32 whatever the caller trains in.

    Args:
        encoder: the network.
        fbank: its filter bank.
        device: where to compute.
        batched: whether utterances go through the network together; None: on all devices but a CPU.
    """

    def __init__(
        self, encoder: SpeakerEncoder, fbank: Fbank, device: torch.device, *, batched: bool | None = None
    ) -> None:
        self.encoder = encoder.to(device).eval().folded()
        if device.type == "cpu":
            # oneDNN then computes on the maps as they lie, instead of bringing them into its own order and back around
            # every convolution, which took some per cent of the time.
            self.encoder.to(memory_format=torch.channels_last)
        self.fbank = fbank.to(device)
        self.device = device
        self.batched = device.type != "cpu" if batched is None else batched

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[Waveform]) -> np.ndarray:
        """Embed a batch.

        Raises:
            RecipeError: a waveform has fewer frames than the network needs.
        """
        with exact_float32(), torch.autocast(self.device.type, enabled=False):
            embedding = torch.empty(len(waveforms), self.encoder.embed_dim, device=self.device)
            together = []
            for row, waveform in enumerate(waveforms):
                if self._num_frames(waveform) > FRAMES_PER_PIECE:
                    embedding[row] = self._embed_long(waveform)
                else:
                    together.append(row)
            if together:
                embedding[together] = self._embed_together([waveforms[row] for row in together]).float()
        return embedding.cpu().numpy()

    def _num_frames(self, waveform: Waveform) -> int:
        """T.

        Raises:
            RecipeError: it is less than the network needs.
        """
        num_frames = self.fbank.num_frames(len(waveform))
        if num_frames < self.encoder.min_frames:
            raise RecipeError(
                f"an utterance of {len(waveform)} samples has fewer than {self.encoder.min_frames} frames; "
                "leave it out (run.sh --stage 2 --pack_opts '--min_duration SECONDS')"
            )
        return num_frames

    def _features(self, waveform: Waveform) -> torch.Tensor:
        """Features (T, F)."""
        return normalise_mean(features_of(waveform, self.fbank, 0, self._num_frames(waveform)))

    def _embed_long(self, waveform: Waveform) -> torch.Tensor:
        """Embedding (D,): the features are made twice, for their mean and to be embedded, and never held."""
        mean = mean_features(waveform, self.fbank)
        return self.encoder.embed_long(
            lambda first, end: features_of(waveform, self.fbank, first, end) - mean,
            self._num_frames(waveform),
            FRAMES_PER_PIECE,
        )

    def _embed_together(self, waveforms: Sequence[Waveform]) -> torch.Tensor:
        """Embeddings (N, D) of utterances of up to a piece."""
        if not self.batched:
            return torch.cat([self.encoder(self._features(each).unsqueeze(0)) for each in waveforms])
        num_frames = [self._num_frames(each) for each in waveforms]
        features, lengths = self._padded_features(waveforms, num_frames)
        if not self.encoder.masks_padding:
            return self._by_length(features, num_frames)
        is_padded = len(set(num_frames)) > 1
        embedding: torch.Tensor = self.encoder(features, lengths if is_padded else None)
        return embedding

    def _padded_features(
        self, waveforms: Sequence[Waveform], num_frames: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, T, F), each row's less their mean, and 0 behind its end; and ``num_frames`` on the device.

        Samples go to the device at once, and are analysed at once: one utterance at a time would leave a GPU idle.
        """
        is_pinned = self.device.type == "cuda"
        samples = torch.zeros(len(waveforms), self.fbank.num_samples(max(num_frames)), pin_memory=is_pinned)
        for row, waveform, count in zip(samples, waveforms, num_frames, strict=True):
            whole = self.fbank.num_samples(count)
            row[:whole] = torch.from_numpy(waveform[:whole])
        lengths = torch.tensor(num_frames, pin_memory=is_pinned).to(self.device, non_blocking=True)
        features = self.fbank(samples.to(self.device, non_blocking=True))
        is_behind = (torch.arange(features.shape[1], device=self.device) >= lengths[:, None]).unsqueeze(-1)
        features.masked_fill_(is_behind, 0.0)
        features -= features.sum(dim=1, keepdim=True) / lengths.view(-1, 1, 1)
        return features.masked_fill_(is_behind, 0.0), lengths

    def _by_length(self, features: torch.Tensor, num_frames: Sequence[int]) -> torch.Tensor:
        """Embeddings (N, D) of utterances of any lengths, those of one length in a batch."""
        rows_of: dict[int, list[int]] = {}
        for row, count in enumerate(num_frames):
            rows_of.setdefault(count, []).append(row)
        embedding = torch.empty(len(features), self.encoder.embed_dim, device=self.device)
        for count, rows in rows_of.items():
            embedding[rows] = self.encoder(features[rows, :count]).float()
        return embedding


def refuse_short(reader: ShardReader, fbank: Fbank, min_frames: int) -> None:
    """Refuse a set of which a network cannot embed some utterances, ahead of the hours that go into the others.

    Args:
        reader: the packed set.
        fbank: the filter bank of the network.
        min_frames: the fewest frames that it can embed.

    Raises:
        RecipeError: some have fewer; the first few are named.
    """
    least = fbank.num_samples(min_frames)
    short = [reader.index.key(row) for row in np.flatnonzero(reader.num_samples < least).tolist()]
    if short:
        least_s = math.ceil(1000 * least / fbank.sample_rate) / 1000
        advice = f"Leave them out with --min_duration {least_s:g}" + with_run_sh(
            " and pack again (egs/folder, run.sh --stage 1), or take them out of wav.scp, utt2spk and the trial lists "
            "and pack again (other corpora, run.sh --stage 2)"
        )
        of = f"of {len(reader)} utterances"
        raise RecipeError(
            f"{reader.shard_list}: {counted(len(short), f'{of} has', f'{of} have')} fewer than the {min_frames} frames "
            f"({least_s:g} s) that the network can embed:{first_few(short)}\n{advice}"
        )


class LtasEmbedder:
    """The voice-blind baseline: long-term average spectra in the place of embeddings."""

    def __init__(self, fbank: Fbank) -> None:
        self.fbank = fbank

    def __call__(self, waveforms: Sequence[Waveform]) -> np.ndarray:
        """Spectra (N, F)."""
        return np.stack([long_term_average_spectrum(waveform, self.fbank) for waveform in waveforms])


class BandwidthMeter:
    """The bandwidth of recordings in the place of embeddings."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def __call__(self, waveforms: Sequence[Waveform]) -> np.ndarray:
        """Highest frequencies (N, 1) in Hz."""
        return np.array([[bandwidth_hz(waveform, self.sample_rate)] for waveform in waveforms], dtype=np.float32)


class TrimmingEmbedder:
    """A system that is given utterances without their digital silence.

    Args:
        embed: the system.
        fbank: its filter bank.
        min_frames: the fewest frames that it can embed.
    """

    def __init__(self, embed: Embedder, fbank: Fbank, min_frames: int = 1) -> None:
        self.embed = embed
        self.fbank = fbank
        self.min_frames = min_frames
        self.num_trimmed = 0
        """Utterances that were shortened so far."""

    def __call__(self, waveforms: Sequence[Waveform]) -> np.ndarray:
        """Embed a batch.

        On a GPU the last digits of an embedding depend on how far its batch is padded: so that those of utterances
        without silence stay as they are, their batch has the others in it at full length, and these are embedded again.
        """
        parts = [without_silence(waveform, self.fbank.frames, self.min_frames) for waveform in waveforms]
        trimmed = [row for row, (part, whole) in enumerate(zip(parts, waveforms, strict=True)) if part is not whole]
        self.num_trimmed += len(trimmed)
        if len(trimmed) == len(parts):
            return self.embed(parts)
        embeddings = self.embed(waveforms)
        if trimmed:
            embeddings[trimmed] = self.embed([parts[row] for row in trimmed])
        return embeddings


class _Read(NamedTuple):
    """Whole utterances, one behind the other in one tensor, which comes from another process in shared memory."""

    positions: list[int]
    num_samples: list[int]
    samples: torch.Tensor
    """float32; each begins at a multiple of :data:`_ALIGNED`."""

    def waveforms(self) -> list[NDArray[np.float32]]:
        """Each by itself."""
        return _apart(self.samples.numpy(), self.num_samples)


def _apart(samples: NDArray[np.float32], num_samples: Sequence[int]) -> list[NDArray[np.float32]]:
    """Views of ``num_samples`` samples each, one behind the other."""
    starts = itertools.accumulate((count + -count % _ALIGNED for count in num_samples), initial=0)
    return [samples[start : start + count] for start, count in zip(starts, num_samples, strict=False)]


class _WholeUtterances(Dataset[_Read]):
    """Batches of whole utterances by lists of positions."""

    def __init__(self, reader: ShardReader, batches: list[list[int]]) -> None:
        self.reader = reader
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> _Read:
        batch = self.batches[index]
        num_samples = self.reader.num_samples[batch].tolist()
        samples = torch.empty(sum(count + _ALIGNED for count in num_samples))
        for position, waveform in zip(batch, _apart(samples.numpy(), num_samples), strict=True):
            waveform[:] = self.reader.read(position)
        return _Read(batch, num_samples, samples)


def num_readers(device: torch.device) -> int:
    """How many processes read ahead of a network: on a CPU none, where reading takes a hundredth of the time."""
    return 0 if device.type == "cpu" else min(_MOST_READERS, available_cpus())


def batches_by_length(num_samples: np.ndarray, samples_per_batch: int) -> list[list[int]]:
    """Positions grouped, longest first, so that no batch has more samples than allowed, padding counted in.

    An utterance longer than that makes a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for position in np.argsort(-num_samples, kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * longest <= samples_per_batch:
            batches[-1].append(position)
        else:
            longest = int(num_samples[position])
            batches.append([position])
    return batches


def embed_all(
    embed: Embedder,
    reader: ShardReader,
    *,
    frame_shift: int,
    num_workers: int,
    description: str,
    show_progress: bool = True,
) -> np.ndarray:
    """Embeddings (N, D) of all utterances of ``reader``, in its order.

    Args:
        embed: the system.
        reader: a packed set.
        frame_shift: samples a frame, for the size of the batches.
        num_workers: processes that read; 0 reads here. Changes no result.
        description: name beside the progress bar.
        show_progress: draw the bar.

    Raises:
        RecipeError: an embedding is not finite; its utterance is named.
    """
    batches = batches_by_length(reader.num_samples, FRAMES_PER_BATCH * frame_shift)
    num_long = sum(reader.num_samples[batch[0]] > FRAMES_PER_PIECE * frame_shift for batch in batches)
    dataset = Handing(_WholeUtterances(reader, batches[num_long:]))
    loader = DataLoader(dataset, batch_size=None, collate_fn=unchanged, num_workers=num_workers)
    read = ((each.positions, each.waveforms()) for each in handed(loader))
    # The long ones come first, one by one, and are read here, as they are embedded.
    long = (([position], [reader.recording(position)]) for batch in batches[:num_long] for position in batch)
    rows: list[np.ndarray | None] = [None] * len(reader)
    with Progress(total=len(reader), unit="utt", desc=description, show=show_progress) as bar:
        for positions, waveforms in itertools.chain(long, read):
            for position, row in zip(positions, embed(waveforms), strict=True):
                if not np.isfinite(row).all():
                    raise RecipeError(
                        f"{reader.shard_list}: the embedding of {reader.keys[position]} is not finite; "
                        "check that recording, and that the training did not diverge"
                    )
                rows[position] = row
            bar.update(len(positions))
    return np.stack([row for row in rows if row is not None])

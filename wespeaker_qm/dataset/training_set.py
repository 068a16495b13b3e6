"""The packed training data of a corpus, ready to be drawn from."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import Config, DatasetArgs
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.chunks import ChunkDataset
from wespeaker_qm.dataset.draws import SNR_RANGES_DB, SPEEDS, DrawSettings
from wespeaker_qm.dataset.frontend import TrainingFrontend
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import NUM_SHOWN, RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder

MAX_SHORT_FRACTION = 0.1
"""Largest fraction of the utterances, and of the speakers with all of theirs, that may be too short to train on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Training utterances with their labels, chunk reader and front end.

    Attributes:
        speakers: sorted; the index of a speaker is its label at speed 1.0.
        num_classes: speakers times speeds.
        labels: (N,) speaker index of each utterance that is trained on.
        shards: (N,) which of the packed files it is in.
        chunks: reads the batch of a batch id.
        frontend: turns batches into features.
    """

    speakers: list[str]
    num_classes: int
    labels: np.ndarray
    shards: np.ndarray
    chunks: ChunkDataset
    frontend: TrainingFrontend


def open_training_set(config: Config, data: DataFolder, fbank: Fbank) -> TrainingSet:
    """Open the packed training, noise and impulse-response sets of a corpus.

    Args:
        config: of the run.
        data: e.g. ``data/mini``.
        fbank: the filter bank, with the dither of the training.

    Raises:
        RecipeError: sets are not packed, have another sample rate, or lack what the configuration asks for; most of the
            speech is too short (:data:`MAX_SHORT_FRACTION`).
    """
    corpus = CorpusInfo.load(data.info)
    args = config.dataset_args
    reader = _open(data, corpus.training_set(data.info), args)
    noise, rirs = _open_augmentation(data, corpus, args)
    speakers = reader.index.speaker_names
    if len(speakers) < 2:
        raise RecipeError(
            f"{reader.shard_list}: {counted(len(speakers), 'speaker', 'speakers')}, expected 2 or more to train on"
        )
    utterances = _long_enough(reader, args, fbank)
    labels = reader.index.records["speaker"][utterances].astype(np.int64)
    num_samples = fbank.num_samples(args.num_frms)
    chunks = ChunkDataset(
        reader,
        utterances=utterances,
        labels=labels,
        num_speakers=len(speakers),
        num_samples=num_samples,
        settings=draw_settings(
            config,
            num_rirs=0 if rirs is None else len(rirs),
            noise_categories=() if noise is None else tuple(noise.speakers),
        ),
        noise=noise,
        rirs=rirs,
    )
    rir_lengths = np.empty(0, int) if rirs is None else rirs.num_samples
    return TrainingSet(
        speakers=speakers,
        num_classes=num_classes(config, speakers),
        labels=labels,
        shards=reader.index.records["shard"][utterances],
        chunks=chunks,
        frontend=TrainingFrontend(fbank, num_samples=num_samples, rir_lengths=rir_lengths),
    )


def num_classes(config: Config, speakers: Sequence[str]) -> int:
    """Classes of a training: speakers, times speeds where each speed is another speaker."""
    return len(speakers) * (len(SPEEDS) if config.dataset_args.speed_perturb else 1)


def _open(data: DataFolder, name: str, args: DatasetArgs) -> ShardReader:
    """A packed set of the sample rate that the features expect."""
    reader = ShardReader(data.set(name).shard_list)
    if reader.sample_rate != args.resample_rate:
        raise RecipeError(
            f"{reader.shard_list}: sample rate {reader.sample_rate} Hz, but dataset_args.resample_rate is "
            f"{args.resample_rate}; pack the corpus at that rate (stage 2)"
        )
    return reader


def _open_augmentation(
    data: DataFolder, corpus: CorpusInfo, args: DatasetArgs
) -> tuple[ShardReader | None, ShardReader | None]:
    """Noises and impulse responses; None where the corpus has none or nothing is augmented."""
    if not args.aug_prob:
        return None, None
    if corpus.noise is None and corpus.rirs is None:
        raise RecipeError(
            f"dataset_args.aug_prob is {args.aug_prob}, but {data.info} names neither noise nor rirs; "
            "prepare them (stage 1) or set dataset_args.aug_prob=0"
        )
    noise, rirs = (None if name is None else _open(data, name, args) for name in (corpus.noise, corpus.rirs))
    unknown = sorted(set(noise.speakers) - SNR_RANGES_DB.keys()) if noise is not None else []
    if unknown:
        raise RecipeError(
            f"{data.set(str(corpus.noise)).utt2spk}: noise categories {unknown}, expected {sorted(SNR_RANGES_DB)}, "
            "which decide the signal-to-noise ratio; correct utt2spk and pack again (run.sh --stage 2)"
        )
    return noise, rirs


def _long_enough(reader: ShardReader, args: DatasetArgs, fbank: Fbank) -> np.ndarray:
    """(N,) positions of the utterances that are not too short to train on."""
    if not args.filter:
        return np.arange(len(reader))
    least = args.filter_args.min_num_frames
    is_long = reader.num_samples >= fbank.num_samples(least)
    if is_long.all():
        return np.arange(len(reader))
    num_short = int(np.sum(~is_long))
    labels = reader.index.records["speaker"]
    speakers = reader.index.speaker_names
    lost = np.setdiff1d(labels, labels[is_long])
    of = f"of {len(reader)} utterances"
    found = f"{counted(num_short, f'{of} is', f'{of} are')} shorter than {least} frames and not trained on"
    if len(lost):
        found += f"; nothing is left of {len(lost)} of {len(speakers)} speakers: "
        found += ", ".join(speakers[label] for label in lost[:NUM_SHOWN]) + " ..." * (len(lost) > NUM_SHOWN)
    if max(num_short / len(reader), len(lost) / len(speakers)) > MAX_SHORT_FRACTION:
        fitting = _fitting_num_frames(reader, fbank)
        raise RecipeError(
            f"{reader.shard_list}: {found}. Expected at most the fraction {MAX_SHORT_FRACTION:g} of either. Set "
            f"dataset_args.filter_args.min_num_frames={fitting} to train on enough of them, or "
            "dataset_args.filter=false to train on all; shorter ones are repeated to fill a chunk of "
            f"dataset_args.num_frms ({args.num_frms}) frames, so consider less of these, too (run.sh --overrides)"
        )
    logger.warning("%s", found)
    return np.flatnonzero(is_long)


def _fitting_num_frames(reader: ShardReader, fbank: Fbank) -> int:
    """The largest ``min_num_frames`` that leaves out no more utterances and speakers than may be."""
    labels = reader.index.records["speaker"]
    longest = np.zeros(len(reader.index.speaker_names), np.int64)
    np.maximum.at(longest, labels, reader.num_samples)
    lengths = (np.sort(each)[int(MAX_SHORT_FRACTION * len(each))] for each in (reader.num_samples, longest))
    return fbank.num_frames(int(min(lengths)))


def draw_settings(config: Config, *, num_rirs: int, noise_categories: tuple[str, ...]) -> DrawSettings:
    """What the training of a configuration draws, from so many impulse responses and noises of these categories."""
    args, mask = config.dataset_args, config.dataset_args.spec_aug_args
    return DrawSettings(
        seed=config.seed,
        speed_perturb=args.speed_perturb,
        aug_prob=args.aug_prob,
        channel_prob=args.channel_prob,
        num_rirs=num_rirs,
        noise_categories=noise_categories,
        num_frames=args.num_frms,
        num_mel_bins=args.fbank_args.num_mel_bins,
        spec_aug_prob=mask.prob if args.spec_aug else 0.0,
        num_t_mask=mask.num_t_mask,
        max_t=mask.max_t,
        num_f_mask=mask.num_f_mask,
        max_f=mask.max_f,
    )

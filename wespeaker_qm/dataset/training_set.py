"""The packed training data of a corpus, ready to be drawn from."""

import logging
from dataclasses import dataclass

import numpy as np

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import Config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.chunks import ChunkDataset
from wespeaker_qm.dataset.draws import SNR_RANGES_DB, SPEEDS, DrawSettings
from wespeaker_qm.dataset.frontend import TrainingFrontend
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder

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


def _open_if(wanted: bool, data: DataFolder, name: str | None) -> ShardReader | None:
    return ShardReader(data.set(name).shard_list) if wanted and name is not None else None


def open_training_set(config: Config, data: DataFolder, fbank: Fbank) -> TrainingSet:
    """Open the packed training, noise and impulse-response sets of a corpus.

    Args:
        config: of the run.
        data: e.g. ``data/mini``.
        fbank: the filter bank, with the dither of the training.

    Raises:
        RecipeError: sets are not packed, have another sample rate, or lack what the configuration asks for.
    """
    corpus = CorpusInfo.load(data.info)
    args = config.dataset_args
    reader = ShardReader(data.set(corpus.train).shard_list)
    augment = args.aug_prob > 0
    if augment and corpus.noise is None and corpus.rirs is None:
        raise RecipeError(
            f"dataset_args.aug_prob is {args.aug_prob}, but {data.info} names neither noise nor rirs; "
            "prepare them (stage 1) or set dataset_args.aug_prob=0"
        )
    noise = _open_if(augment, data, corpus.noise)
    rirs = _open_if(augment, data, corpus.rirs)
    for opened in (reader, noise, rirs):
        if opened is not None and opened.sample_rate != args.resample_rate:
            raise RecipeError(
                f"{opened.shard_list}: sample rate {opened.sample_rate} Hz, but dataset_args.resample_rate is "
                f"{args.resample_rate}; pack the corpus at that rate (stage 2)"
            )

    unknown = sorted(set(noise.speakers) - SNR_RANGES_DB.keys()) if noise is not None else []
    if unknown:
        raise RecipeError(
            f"{data.set(str(corpus.noise)).utt2spk}: noise categories {unknown}, expected {sorted(SNR_RANGES_DB)}, "
            "which decide the signal-to-noise ratio; correct utt2spk and pack again (run.sh --stage 2)"
        )
    speakers = reader.index.speaker_names
    labels = reader.index.records["speaker"].astype(np.int64)
    if len(speakers) < 2:
        raise RecipeError(f"{reader.shard_list}: {len(speakers)} speaker(s), expected 2 or more to train on")
    if args.filter:
        shortest = fbank.num_samples(args.filter_args.min_num_frames)
        long_enough = np.flatnonzero(reader.num_samples >= shortest)
        dropped = len(reader) - len(long_enough)
        if not len(long_enough):
            raise RecipeError(
                f"{reader.shard_list}: none of {len(reader)} utterances has dataset_args.filter_args.min_num_frames = "
                f"{args.filter_args.min_num_frames} frames; lower it"
            )
        if dropped:
            logger.info(
                "%d of %d utterances are shorter than %d frames and not trained on",
                dropped,
                len(reader),
                args.filter_args.min_num_frames,
            )
    else:
        long_enough = np.arange(len(reader))

    num_samples = fbank.num_samples(args.num_frms)
    mask = args.spec_aug_args
    settings = DrawSettings(
        seed=config.seed,
        speed_perturb=args.speed_perturb,
        aug_prob=args.aug_prob,
        channel_prob=args.channel_prob,
        num_rirs=0 if rirs is None else len(rirs),
        noise_categories=() if noise is None else tuple(noise.speakers),
        num_frames=args.num_frms,
        num_mel_bins=fbank.num_mel_bins,
        spec_aug_prob=mask.prob if args.spec_aug else 0.0,
        num_t_mask=mask.num_t_mask,
        max_t=mask.max_t,
        num_f_mask=mask.num_f_mask,
        max_f=mask.max_f,
    )
    chunks = ChunkDataset(
        reader,
        utterances=long_enough,
        labels=labels[long_enough],
        num_speakers=len(speakers),
        num_samples=num_samples,
        settings=settings,
        noise=noise,
        rirs=rirs,
    )
    return TrainingSet(
        speakers=speakers,
        num_classes=len(speakers) * (len(SPEEDS) if args.speed_perturb else 1),
        labels=labels[long_enough],
        shards=reader.index.records["shard"][long_enough],
        chunks=chunks,
        frontend=TrainingFrontend(
            fbank, num_samples=num_samples, rir_lengths=np.empty(0, int) if rirs is None else rirs.num_samples
        ),
    )

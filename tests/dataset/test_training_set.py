"""What is opened for a training, and with which settings."""

import dataclasses
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.config import Config, SpecAugArgs
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.chunks import read_tiled
from wespeaker_qm.dataset.draws import NOISE, REVERB, DrawSettings
from wespeaker_qm.dataset.plan import BatchId
from wespeaker_qm.dataset.training_set import TrainingSet, open_training_set
from wespeaker_qm.network.build import build_fbank
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder


@pytest.fixture
def open_with(tiny_config: Config, tiny_corpus: Path, tmp_path: Path):
    """Function: the training set with other arguments of the data set, and of the corpus."""

    def opened(corpus: dict[str, object] | None = None, **changes: object) -> TrainingSet:
        data = tiny_corpus
        if corpus is not None:
            data = tmp_path / "data"
            data.mkdir()
            for path in tiny_corpus.iterdir():
                if path.name != "corpus.yaml":
                    (data / path.name).symlink_to(path)
            dataclasses.replace(CorpusInfo.load(tiny_corpus), **corpus).save(data / "corpus.yaml")
        args = dataclasses.replace(tiny_config.dataset_args, **changes)
        config = dataclasses.replace(tiny_config, dataset_args=args, seed=11)
        return open_training_set(config, DataFolder(data), build_fbank(config, dither=1.0))

    return opened


def test_every_setting_goes_where_its_name_says(open_with) -> None:
    """All values differ, so that no two can be mistaken for each other."""
    masks = SpecAugArgs(num_t_mask=2, num_f_mask=3, max_t=5, max_f=7, prob=0.25)
    training = open_with(aug_prob=0.75, channel_prob=0.125, num_frms=33, spec_aug=True, spec_aug_args=masks)
    assert training.chunks.draw_source.settings == DrawSettings(
        seed=11,
        speed_perturb=True,
        aug_prob=0.75,
        channel_prob=0.125,
        num_rirs=4,
        noise_categories=tuple(training.chunks.noise.speakers),
        num_frames=33,
        num_mel_bins=16,
        spec_aug_prob=0.25,
        num_t_mask=2,
        max_t=5,
        num_f_mask=3,
        max_f=7,
    )
    assert sorted(training.chunks.noise.speakers) == ["music", "noise", "speech"]
    assert training.chunks.num_samples == training.frontend.num_samples == 400 + 32 * 160
    assert training.frontend.fbank.num_frames(training.chunks.num_samples) == 33
    assert (training.num_classes, training.chunks.num_speakers) == (12, 4)
    assert [len(labels) for labels in (training.labels, training.shards, training.chunks)] == [24, 24, 24]
    keys = [training.chunks.key(utterance) for utterance in range(24)]
    assert sorted(keys) == [f"t{speaker}-{take}" for speaker in range(4) for take in range(6)]
    assert training.labels.tolist() == [int(key[1]) for key in keys]
    assert np.bincount(training.shards).tolist() == [10, 10, 4]


def test_without_masks_speeds_and_noise_nothing_of_them_is_drawn(open_with) -> None:
    training = open_with(spec_aug=False, speed_perturb=False, aug_prob=0.0)
    settings = training.chunks.draw_source.settings
    assert (settings.spec_aug_prob, settings.num_rirs, settings.noise_categories) == (0.0, 0, ())
    assert (training.chunks.noise, training.chunks.rirs) == (None, None)
    assert training.num_classes == 4


def test_noise_alone_is_enough(open_with) -> None:
    training = open_with({"rirs": None})
    assert training.chunks.rirs is None
    assert training.chunks.noise is not None
    assert training.chunks.draw_source.settings.num_rirs == 0


def test_augmentation_without_anything_to_augment_with_is_refused(open_with) -> None:
    with pytest.raises(RecipeError, match=r"aug_prob is 0\.5, but .*/corpus\.yaml names neither noise nor rirs"):
        open_with({"noise": None, "rirs": None}, aug_prob=0.5)


def test_rirs_alone_are_enough(open_with) -> None:
    assert open_with({"noise": None}, aug_prob=0.5).chunks.draw_source.settings.noise_categories == ()


def test_one_speaker_is_nothing_to_train_on(open_with, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"shard\.list: 1 speaker, expected 2 or more to train on"):
        open_with({"train": _one_speaker(tmp_path)}, aug_prob=0.0)


def _one_speaker(tmp_path: Path) -> str:
    from wespeaker_qm.audio.io import write_wav
    from wespeaker_qm.corpus.datadir import DataDir
    from wespeaker_qm.packing.pack import pack_data_dir

    folder = tmp_path / "lonely"
    for key in "ab":
        write_wav(folder / f"{key}.wav", np.sin(np.arange(16000.0)) / 2, 16000)
    DataDir(
        wav={key: str(folder / f"{key}.wav") for key in "ab"},
        speaker={key: "only" for key in "ab"},
        duration_s={key: 1.0 for key in "ab"},
    ).write(folder)
    pack_data_dir(folder, sample_rate=16000, utterances_per_shard=10, num_workers=1)
    return str(folder)


def _frames(corpus: Path) -> np.ndarray:
    return (ShardReader(corpus / "train" / "shard.list").num_samples - 400) // 160 + 1


@pytest.mark.parametrize("is_filtered", [True, False])
def test_what_is_too_short_is_left_out_counted_and_its_labels_with_it(
    open_with, tiny_config: Config, tiny_corpus: Path, caplog: pytest.LogCaptureFixture, is_filtered: bool
) -> None:
    """Two of 24 are as many as may be."""
    reader = ShardReader(tiny_corpus / "train" / "shard.list")
    frames = _frames(tiny_corpus)
    least = int(np.sort(frames)[2])
    bounds = dataclasses.replace(tiny_config.dataset_args.filter_args, min_num_frames=least)
    with caplog.at_level(logging.WARNING, logger="wespeaker_qm"):
        training = open_with(filter=is_filtered, filter_args=bounds)
    kept = np.flatnonzero(frames >= least) if is_filtered else np.arange(24)
    assert training.chunks.utterances.tolist() == kept.tolist()
    keys = [reader.index.key(row) for row in kept.tolist()]
    assert [training.chunks.key(utterance) for utterance in range(len(kept))] == keys
    assert training.labels.tolist() == training.chunks.labels.tolist() == [int(key[1]) for key in keys]
    assert training.shards.tolist() == reader.index.records["shard"][kept].tolist()
    said = [record.getMessage() for record in caplog.records if "shorter" in record.getMessage()]
    assert int((frames < least).sum()) == 2
    expected = f"2 of 24 utterances are shorter than {least} frames and not trained on"
    assert said == ([expected] if is_filtered else [])


@pytest.mark.parametrize("rank", [4, 12, 23, 24])
def test_a_training_on_the_few_long_utterances_is_refused_and_what_is_recommended_works(
    open_with, tiny_config: Config, tiny_corpus: Path, rank: int
) -> None:
    frames = _frames(tiny_corpus)
    least = int(np.sort(frames)[rank]) if rank < 24 else int(frames.max()) + 1
    bounds = dataclasses.replace(tiny_config.dataset_args.filter_args, min_num_frames=least)
    num_short = int((frames < least).sum())
    with pytest.raises(RecipeError, match=rf"train/shard\.list: {num_short} of 24 utterances are shorter") as caught:
        open_with(filter_args=bounds)
    message = str(caught.value)
    assert "dataset_args.num_frms (40)" in message
    assert len(open_with(filter_args=bounds, filter="dataset_args.filter=false" not in message).labels) == 24
    proposed = re.search(r"dataset_args\.filter_args\.min_num_frames=(\d+)", message)
    assert proposed is not None
    fitting = int(proposed[1])
    bounds = dataclasses.replace(bounds, min_num_frames=fitting)
    training = open_with(filter_args=bounds, num_frms=fitting)
    assert 22 <= len(training.labels) <= 24
    batch = training.chunks[BatchId(1, 0, np.arange(8))]
    assert batch.label.shape == (8,)


def _short_speaker(tmp_path: Path, num_speakers: int) -> str:
    """A set in which the last of the speakers has half a second, and the others ten utterances of one each."""
    from wespeaker_qm.audio.io import write_wav
    from wespeaker_qm.corpus.datadir import DataDir
    from wespeaker_qm.packing.pack import pack_data_dir

    folder = tmp_path / "short"
    speaker = {f"s{n:02d}-{take}": f"s{n:02d}" for n in range(num_speakers - 1) for take in range(10)}
    speaker["z-0"] = "z"
    for key in speaker:
        length = 8000 if key == "z-0" else 16000
        write_wav(folder / f"{key}.wav", np.sin(np.arange(length) * 0.1) / 2, 16000)
    wav = {key: str(folder / f"{key}.wav") for key in speaker}
    DataDir(wav=wav, speaker=speaker, duration_s=dict.fromkeys(speaker, 1.0)).write(folder)
    pack_data_dir(folder, sample_rate=16000, utterances_per_shard=100, num_workers=1)
    return str(folder)


def test_speakers_of_whom_nothing_is_left_are_named_and_refused_when_they_are_many(
    open_with, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = dataclasses.replace(tiny_config.dataset_args.filter_args, min_num_frames=60)
    corpus = {"train": _short_speaker(tmp_path, 3)}  # 1 of 21 utterances, but 1 of 3 speakers
    with pytest.raises(RecipeError, match=r"left of 1 of 3 speakers: z\. Expected at most .* 0\.1 ") as caught:
        open_with(corpus, filter_args=bounds, aug_prob=0.0)
    shutil.rmtree(tmp_path / "data")
    assert "min_num_frames=48" in str(caught.value)  # 1 + (8000 - 400) // 160
    bounds = dataclasses.replace(bounds, min_num_frames=48)
    assert len(open_with(corpus, filter_args=bounds, aug_prob=0.0).labels) == 21


def test_a_tenth_of_the_speakers_may_have_nothing_left(
    open_with, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = dataclasses.replace(tiny_config.dataset_args.filter_args, min_num_frames=60)
    training = open_with({"train": _short_speaker(tmp_path, 10)}, filter_args=bounds, aug_prob=0.0)
    assert "1 of 91 utterances is shorter than 60 frames and not trained on; nothing is left of 1 of 10" in caplog.text
    assert len(training.labels) == 90


def test_an_utterance_of_exactly_the_least_frames_is_kept(open_with, tiny_config: Config, tiny_corpus: Path) -> None:
    shortest = int((ShardReader(tiny_corpus / "train" / "shard.list").num_samples.min() - 400) // 160 + 1)
    for least, num_kept in ((shortest, 24), (shortest + 1, 23)):
        bounds = dataclasses.replace(tiny_config.dataset_args.filter_args, min_num_frames=least)
        assert len(open_with(filter_args=bounds).labels) == num_kept


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.7499, 2), (0.75, 3), (0.9999, 3)])
def test_a_fraction_chooses_one_of_all_places_where_a_chunk_fits(tiny_corpus: Path, start: float, first: int) -> None:
    """Of a recording with three samples more than the chunk there are four."""
    reader = ShardReader(tiny_corpus / "train" / "shard.list")
    whole = (reader.read(1) * 32768).astype(np.int16)
    pcm = np.empty(len(whole) - 3, dtype=np.int16)
    read_tiled(reader, 1, start, pcm)
    np.testing.assert_array_equal(pcm, whole[first : first + len(pcm)])


def test_a_chunk_as_long_as_its_recording_is_the_recording(tiny_corpus: Path) -> None:
    reader = ShardReader(tiny_corpus / "train" / "shard.list")
    whole = (reader.read(2) * 32768).astype(np.int16)
    pcm = np.empty(len(whole), dtype=np.int16)
    read_tiled(reader, 2, 0.9999, pcm)
    np.testing.assert_array_equal(pcm, whole)


def test_a_batch_holds_what_was_drawn_for_its_rows(open_with) -> None:
    """Noise, levels, responses and masks, each at the row that drew it; the second half of an epoch's third batch."""
    training = open_with(spec_aug=True, aug_prob=1.0, channel_prob=0.5, num_frms=90)
    chunks = training.chunks
    utterances = np.arange(24)[::-1].copy()
    batch, draws = chunks[BatchId(2, 36, utterances)], chunks.draw_source.draw(2, 36, 24)
    assert (batch.epoch, batch.position) == (2, 36)
    assert batch.utterance.tolist() == utterances.tolist()
    for row, label in enumerate(batch.label.tolist()):
        assert label == int(chunks.key(23 - row)[1]) + 4 * draws.speed_index[row]
    assert [rows.tolist() for rows in batch.speed_rows] == [
        np.flatnonzero(draws.speed_index == index).tolist() for index in range(3)
    ]
    assert chunks.noise is not None
    for row, noise in zip(batch.noise_rows.tolist(), batch.noise.numpy(), strict=True):
        whole = (chunks.noise.read(int(draws.choice[row])) * 32768).astype(np.int16)
        assert draws.augmentation[row] == NOISE
        start = int(draws.noise_start[row] * (len(whole) - chunks.num_samples + 1))
        np.testing.assert_array_equal(noise, whole[start : start + chunks.num_samples])
    for rows, chosen, pairs in (
        (batch.noise_rows, draws.augmentation == NOISE, [(batch.snr_db, draws.snr_db)]),
        (batch.rir_rows, draws.augmentation == REVERB, [(torch.tensor(batch.rir_index), draws.choice)]),
        (batch.tilt_rows, draws.has_tilt, [(batch.tilt_db, draws.tilt_db)]),
        (batch.band_limit_rows, draws.has_band_limit, [(batch.band_limit_hz, draws.band_limit_hz)]),
        (batch.high_pass_rows, draws.has_high_pass, [(batch.high_pass_hz, draws.high_pass_hz)]),
        (
            batch.hiss_rows,
            draws.has_hiss,
            [
                (batch.hiss_snr_db, draws.hiss_snr_db),
                (batch.hiss_start, draws.hiss_start),
            ],
        ),
        (
            batch.mask_rows,
            draws.is_masked,
            [(batch.time_spans, draws.time_spans), (batch.frequency_spans, draws.frequency_spans)],
        ),
    ):
        assert rows.tolist() == np.flatnonzero(chosen).tolist()
        assert 0 < len(rows) < 24
        for found, drawn in pairs:
            np.testing.assert_array_equal(found.numpy(), drawn[chosen])
    assert batch.dither_start.tolist() == draws.dither_start.tolist()

"""From shards to features: what is read, how it is batched and augmented."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.resample import speed_input_length
from wespeaker_qm.config import Config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.corpus.shards import ShardReader
from wespeaker_qm.dataset.chunks import Batch, collate, read_tiled
from wespeaker_qm.dataset.draws import NOISE, REVERB, SPEEDS
from wespeaker_qm.dataset.frontend import augment_waveform
from wespeaker_qm.dataset.loader import make_loader
from wespeaker_qm.dataset.plan import BatchPlan, SampleId
from wespeaker_qm.dataset.training_set import TrainingSet, open_training_set
from wespeaker_qm.train import build
from wespeaker_qm.utils.errors import RecipeError


@pytest.fixture
def training_set(tiny_config: Config, tiny_corpus: Path) -> TrainingSet:
    return open_training_set(tiny_config, tiny_corpus, build.build_fbank(tiny_config, dither=1.0))


def batches(training: TrainingSet, num_workers: int = 0) -> list[Batch]:
    plan = BatchPlan(
        training.labels,
        sampler="utterance",
        samples_per_epoch=0,
        batch_size=8,
        seed=42,
        rank=0,
        world_size=1,
    )
    return list(make_loader(training.chunks, plan, num_workers=num_workers, prefetch_factor=2))


def test_classes_are_speakers_times_speeds(training_set: TrainingSet) -> None:
    assert training_set.speakers == ["t0", "t1", "t2", "t3"]
    assert training_set.num_classes == 12
    for position in range(24):
        chunk = training_set.chunks[SampleId(1, position, position)]
        speaker = training_set.speakers.index(chunk.key.split("-")[0])
        assert chunk.label == speaker + 4 * chunk.draw.speed_index


def test_only_the_needed_samples_are_read(training_set: TrainingSet) -> None:
    chunks = training_set.chunks
    for position in range(24):
        chunk = chunks[SampleId(1, position, position)]
        needed = speed_input_length(chunks.num_samples, SPEEDS[chunk.draw.speed_index])
        assert chunk.waveform.shape == (needed,)
        assert (chunk.noise is not None) == (chunk.draw.augmentation == NOISE)
        assert (chunk.rir is not None) == (chunk.draw.augmentation == REVERB)
        whole = chunks.reader.read(chunks.reader.index_of(chunk.key))
        start = int(chunk.draw.chunk_start * (len(whole) - needed + 1))
        np.testing.assert_array_equal(chunk.waveform, whole[start : start + needed])


def test_a_short_recording_is_repeated(tiny_corpus: Path) -> None:
    reader = ShardReader(tiny_corpus / "noise" / "shard.list")
    whole = reader.read(0)
    tiled = read_tiled(reader, 0, 0.5, 40000)
    np.testing.assert_array_equal(tiled, np.concatenate([whole, whole, whole])[:40000])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_number_of_workers_changes_nothing(training_set: TrainingSet, num_workers: int) -> None:
    alone, helped = batches(training_set), batches(training_set, num_workers)
    assert len(alone) == len(helped) == 3
    for left, right in zip(alone, helped, strict=True):
        assert left.keys == right.keys
        for one, two in zip(left, right, strict=True):
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, two)
        assert torch.equal(training_set.frontend(left), training_set.frontend(right))


def test_batch_equals_its_rows_one_at_a_time(training_set: TrainingSet) -> None:
    num_samples = training_set.chunks.num_samples
    chunks = [training_set.chunks[SampleId(1, position, position)] for position in range(24)]
    assert {chunk.draw.augmentation for chunk in chunks} == {0, REVERB, NOISE}
    together = augment_waveform(collate(chunks), num_samples, 16000)
    alone = torch.cat([augment_waveform(collate([chunk]), num_samples, 16000) for chunk in chunks])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_plain_rows_pass_untouched(tiny_config: Config, tiny_corpus: Path) -> None:
    args = dataclasses.replace(tiny_config.dataset_args, speed_perturb=False, aug_prob=0.0, channel_prob=0.0)
    config = dataclasses.replace(tiny_config, dataset_args=args)
    training = open_training_set(config, tiny_corpus, build.build_fbank(config, dither=0.0))
    chunks = [training.chunks[SampleId(1, position, position)] for position in range(4)]
    augmented = augment_waveform(collate(chunks), training.chunks.num_samples, 16000)
    np.testing.assert_array_equal(augmented.numpy(), np.stack([chunk.waveform for chunk in chunks]))


def test_features_have_the_configured_shape_and_zero_mean(tiny_config: Config, tiny_corpus: Path) -> None:
    config = dataclasses.replace(
        tiny_config, dataset_args=dataclasses.replace(tiny_config.dataset_args, spec_aug=False)
    )
    training = open_training_set(config, tiny_corpus, build.build_fbank(config, dither=1.0))
    batch = batches(training)[0]
    features = training.frontend(batch)
    assert features.shape == (8, 40, 16)
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(8, 16), atol=1e-4, rtol=0)
    assert torch.equal(features, training.frontend(batch))


def test_masks_are_zero(training_set: TrainingSet) -> None:
    masked = 0
    for batch in batches(training_set):
        features = training_set.frontend(batch)
        for row, spans in zip(features, batch.time_spans.tolist(), strict=True):
            for start, end in spans:
                masked += end - start
                assert (row[start:end] == 0).all()
    assert masked > 0


def test_short_utterances_are_left_out_and_all_of_them_is_an_error(tiny_config: Config, tiny_corpus: Path) -> None:
    def opened(min_num_frames: int) -> TrainingSet:
        bounds = dataclasses.replace(tiny_config.dataset_args.filter_args, min_num_frames=min_num_frames)
        args = dataclasses.replace(tiny_config.dataset_args, filter_args=bounds)
        config = dataclasses.replace(tiny_config, dataset_args=args)
        return open_training_set(config, tiny_corpus, build.build_fbank(config, dither=1.0))

    fewer = opened(150)
    assert 0 < len(fewer.labels) < 24
    reader = fewer.chunks.reader
    assert (reader.num_samples[fewer.chunks.utterances] >= 400 + 149 * 160).all()
    with pytest.raises(RecipeError, match=r"none of 24 utterances has .*min_num_frames = 400"):
        opened(400)


def test_wrong_sample_rate_is_refused(tiny_config: Config, tiny_corpus: Path) -> None:
    config = dataclasses.replace(
        tiny_config, dataset_args=dataclasses.replace(tiny_config.dataset_args, resample_rate=8000)
    )
    with pytest.raises(RecipeError, match=r"sample rate 16000 Hz, but dataset_args.resample_rate is 8000"):
        open_training_set(config, tiny_corpus, build.build_fbank(config, dither=1.0))


def test_unknown_noise_categories_are_refused(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> None:
    corpus = CorpusInfo.load(tiny_corpus)
    renamed = dataclasses.replace(corpus, noise="eval")  # whose "categories" are speakers
    for path in tiny_corpus.iterdir():
        if path.name != "corpus.yaml":
            (tmp_path / path.name).symlink_to(path)
    renamed.save(tmp_path / "corpus.yaml")
    with pytest.raises(
        RecipeError, match=r"noise categories \['e0', 'e1', 'e2'\], expected \['music', 'noise', 'speech'\]"
    ):
        open_training_set(tiny_config, tmp_path, build.build_fbank(tiny_config, dither=1.0))

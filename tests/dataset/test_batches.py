"""From shards to features: what is read, how it is batched and augmented."""

import dataclasses
import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from wespeaker_qm.audio.augment import band_limit, high_pass, shape_spectrum
from wespeaker_qm.audio.speed import change_speed, speed_input_length
from wespeaker_qm.bench.memory import MIB, status_bytes
from wespeaker_qm.config import Config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.chunks import Batch, PackedBatch, read_tiled
from wespeaker_qm.dataset.draws import KEEP, NOISE, REVERB, SPEEDS, Draws, DrawSource
from wespeaker_qm.dataset.frontend import RIR_CACHE_BYTES, TrainingFrontend
from wespeaker_qm.dataset.loader import FrontendPlace, TrainingBatch, TrainingLoader
from wespeaker_qm.dataset.plan import BatchId, BatchPlan
from wespeaker_qm.dataset.training_set import TrainingSet, open_training_set
from wespeaker_qm.network.build import build_fbank
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder


@pytest.fixture
def training_set(tiny_config: Config, tiny_corpus: Path) -> TrainingSet:
    return open_training_set(tiny_config, DataFolder(tiny_corpus), build_fbank(tiny_config, dither=1.0))


def plan(training: TrainingSet) -> BatchPlan:
    return BatchPlan(
        training.labels, sampler="utterance", samples_per_epoch=0, batch_size=8, seed=42, rank=0, world_size=1
    )


def batches(training: TrainingSet) -> list[Batch]:
    return [training.chunks[batch_id] for batch_id in plan(training)]


def load(training: TrainingSet, num_workers: int = 0, **options: Any) -> list[TrainingBatch]:
    loader = TrainingLoader(
        training.chunks,
        training.frontend,
        plan(training),
        device=torch.device("cpu"),
        num_workers=num_workers,
        prefetch_factor=2,
        **options,
    )
    return list(loader)


def everything(training: TrainingSet) -> tuple[Batch, Draws]:
    """All 24 utterances as one batch, in their order, and what was drawn for them."""
    return training.chunks[BatchId(1, 0, np.arange(24))], training.chunks.draw_source.draw(1, 0, 24)


def source_rows(batch: Batch) -> dict[int, np.ndarray]:
    """Row -> the samples read for it."""
    return {
        row: waveform.numpy()
        for rows, waveforms in zip(batch.speed_rows, batch.waveform, strict=True)
        for row, waveform in zip(rows.tolist(), waveforms, strict=True)
    }


def test_classes_are_speakers_times_speeds(training_set: TrainingSet) -> None:
    assert training_set.speakers == ["t0", "t1", "t2", "t3"]
    assert training_set.num_classes == 12
    batch, draws = everything(training_set)
    for row, (utterance, label) in enumerate(zip(batch.utterance.tolist(), batch.label.tolist(), strict=True)):
        speaker = training_set.speakers.index(training_set.chunks.key(utterance).split("-")[0])
        assert label == speaker + 4 * draws.speed_index[row]


def test_only_the_needed_samples_are_read(training_set: TrainingSet) -> None:
    chunks = training_set.chunks
    batch, draws = everything(training_set)
    sources = source_rows(batch)
    assert sorted(sources) == list(range(24))
    for row in range(24):
        needed = speed_input_length(chunks.num_samples, SPEEDS[draws.speed_index[row]])
        whole = chunks.reader.read(row) * 32768
        start = int(draws.chunk_start[row] * (len(whole) - needed + 1))
        np.testing.assert_array_equal(sources[row], whole[start : start + needed])
    assert batch.noise_rows.tolist() == np.flatnonzero(draws.augmentation == NOISE).tolist()
    assert batch.noise.shape == (len(batch.noise_rows), chunks.num_samples)
    assert batch.rir_rows.tolist() == np.flatnonzero(draws.augmentation == REVERB).tolist()
    assert batch.rir_index == tuple(draws.choice[batch.rir_rows])
    for rir, index in zip(batch.rir, batch.rir_index, strict=True):
        np.testing.assert_array_equal(rir.numpy() / np.float32(32768), chunks.rirs.read(index))


def leaves(value: Any) -> list[Any]:
    """What is in a batch, in its order."""
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else [value]


def test_a_packed_batch_is_what_was_packed(training_set: TrainingSet) -> None:
    """Also one of which some arrays are empty; a process that gets it, and a GPU, gets one array."""
    for batch in (*batches(training_set), training_set.chunks[BatchId(1, 0, np.arange(1))]):
        packed = pickle.loads(pickle.dumps(PackedBatch(batch)))
        found = packed.on(torch.device("cpu"))
        assert isinstance(found.speed_rows, tuple) and isinstance(found.waveform, tuple)
        for one, other in zip(leaves(found), leaves(batch), strict=True):
            if isinstance(other, torch.Tensor):
                assert one.dtype == other.dtype and torch.equal(one, other)
                assert one.data_ptr() % 64 == 0 or not one.numel()
            else:
                assert one == other
        moved = packed.on(torch.device("meta"))
        devices = {leaf.device.type for leaf in leaves(moved._replace(utterance=())) if isinstance(leaf, torch.Tensor)}
        assert devices == {"meta"}
        assert moved.utterance.device.type == "cpu"
        assert sum(isinstance(value, torch.Tensor) for value in vars(packed).values()) == 1


def test_a_batch_ends_with_its_last_reference(training_set: TrainingSet) -> None:
    """Not only when Python next looks for cycles: a GPU would hold several batches until then."""
    packed = PackedBatch(batches(training_set)[0])
    data = weakref.ref(packed._data)
    gc.disable()
    try:
        batch = packed.on(torch.device("cpu"))
        del packed, batch
        assert data() is None
    finally:
        gc.enable()


def test_every_chunk_of_an_utterance_is_equally_likely(training_set: TrainingSet) -> None:
    chunks = training_set.chunks
    needed = chunks.num_samples
    first = np.array(
        [int(start * (needed + 1000 + 1 - needed)) for start in chunks.draw_source.draw(1, 0, 5000).chunk_start]
    )
    assert first.min() == 0
    assert first.max() == 1000
    assert stats.kstest(first, "uniform", args=(0, 1000)).pvalue > 0.001


def test_a_short_recording_is_repeated(tiny_corpus: Path) -> None:
    reader = ShardReader(tiny_corpus / "noise" / "shard.list")
    whole = (reader.read(0) * 32768).astype(np.int16)
    tiled = np.empty(40000, dtype=np.int16)
    read_tiled(reader, 0, 0.5, tiled)
    np.testing.assert_array_equal(tiled, np.concatenate([whole, whole, whole])[:40000])


@pytest.mark.parametrize(
    ("num_workers", "frontend_on", "start_method"),
    [(1, "device", None), (2, "device", "fork"), (2, "worker", "fork"), (2, "auto", None), (2, "worker", "spawn")],
)
def test_who_makes_the_batches_changes_nothing(
    training_set: TrainingSet, num_workers: int, frontend_on: str, start_method: str | None
) -> None:
    torch.set_num_threads(2)  # as a training may
    alone = load(training_set)
    assert torch.get_num_threads() == 2
    helped = load(training_set, num_workers, frontend_on=frontend_on, start_method=start_method)
    assert len(alone) == len(helped) == 3
    assert sorted(np.concatenate([batch.utterance for batch in alone])) == list(range(24))
    for left, right in zip(alone, helped, strict=True):
        assert torch.equal(left.utterance, right.utterance)
        assert torch.equal(left.label, right.label)
        assert torch.equal(left.features, right.features)


@pytest.mark.parametrize("frontend_on", ["device", "worker"])
def test_workers_stay_and_do_not_grow(training_set: TrainingSet, frontend_on: FrontendPlace) -> None:
    batch_plan = plan(training_set)
    loader = TrainingLoader(
        training_set.chunks,
        training_set.frontend,
        batch_plan,
        device=torch.device("cpu"),
        frontend_on=frontend_on,
        num_workers=2,
        prefetch_factor=2,
    )
    resident: list[list[int]] = []
    workers = set()
    for epoch in range(1, 21):
        batch_plan.set_epoch(epoch)
        assert len(list(loader)) == 3
        workers.add(tuple(loader.worker_ids()))
        resident.append([status_bytes("VmRSS", process) for process in ("self", *loader.worker_ids())])
    assert len(workers) == 1
    # The first epochs fill caches of spectra and touch shared pages for the first time.
    settled = np.max(resident[5:10], axis=0)
    assert (np.max(resident[15:], axis=0) - settled <= 2 * MIB).all(), resident


FAILS_BESIDE_A_LOADER = """
import sys
import torch
from wespeaker_qm.dataset.loader import TrainingLoader, _Featured
from wespeaker_qm.utils.errors import RecipeError

class Chunks:
    def __getitem__(self, index):
        if sys.argv[1] == "worker" and index == 1:
            raise RecipeError("shard_000.tar: damaged")
        return _Featured(*torch.zeros(3, 1))

loader = TrainingLoader(
    Chunks(), lambda batch: batch.features, [0, 1, 2], device=torch.device("cpu"), num_workers=2, prefetch_factor=2
)
for batch in loader:
    if sys.argv[1] == "training":
        raise RuntimeError("while workers wait for more")
"""


@pytest.mark.parametrize(
    ("where", "message"),
    [("training", "RuntimeError: while workers wait for more"), ("worker", "RecipeError: shard_000.tar: damaged")],
)
def test_a_process_that_fails_ends_its_workers(where: str, message: str) -> None:
    """They do not heed the SIGTERM by which Python ends such processes. What one raised comes as it was said."""
    command = [sys.executable, "-c", FAILS_BESIDE_A_LOADER, where]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1
    assert failed.stderr.endswith(f"{message}\n")
    assert failed.stderr.count("Traceback") == 1 and "DataLoader worker" not in failed.stderr


def test_the_front_end_runs_where_the_key_says(training_set: TrainingSet) -> None:
    def on_workers(num_workers: int, frontend_on: FrontendPlace, device: str = "cpu") -> bool:
        return TrainingLoader(
            training_set.chunks,
            training_set.frontend,
            plan(training_set),
            device=torch.device(device),
            frontend_on=frontend_on,
            num_workers=num_workers,
            prefetch_factor=2,
        ).on_workers

    assert [on_workers(2, place) for place in ("auto", "worker", "device")] == [True, True, False]
    assert not on_workers(0, "worker")
    assert not on_workers(2, "auto", "meta")


def oracle_waveform(training: TrainingSet, batch: Batch, draws: Draws, row: int) -> np.ndarray:
    """A row after speed, reverberation or noise, in float64 and one step at a time."""
    chunks = training.chunks
    speed = SPEEDS[draws.speed_index[row]]
    source = torch.from_numpy(source_rows(batch)[row] / 32768.0).float()[None]
    waveform = change_speed(source, speed)[0, : chunks.num_samples].double().numpy()
    if draws.augmentation[row] == REVERB:
        rir = chunks.rirs.read(int(draws.choice[row])).astype(np.float64)
        waveform = np.convolve(waveform, rir / np.sqrt((rir**2).sum()))[: len(waveform)]
    elif draws.augmentation[row] == NOISE:
        noise = batch.noise[batch.noise_rows.tolist().index(row)].double().numpy() / 32768
        levels_db = [10 * np.log10(np.mean(signal**2) + 1e-4) for signal in (waveform, noise)]
        waveform = waveform + noise * 10 ** ((levels_db[0] - levels_db[1] - draws.snr_db[row]) / 20)
    return waveform if draws.augmentation[row] == KEEP else waveform / (np.abs(waveform).max() + 1e-4)


@pytest.mark.parametrize("cache_bytes", [RIR_CACHE_BYTES, 0])
def test_a_batch_agrees_with_a_slow_oracle(
    training_set: TrainingSet, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wespeaker_qm.dataset.frontend.RIR_CACHE_BYTES", cache_bytes)
    chunks = training_set.chunks
    chunks.draw_source = DrawSource(dataclasses.replace(chunks.draw_source.settings, channel_prob=0.0))
    batch, draws = everything(training_set)
    assert set(draws.augmentation) == {KEEP, REVERB, NOISE}
    frontend = TrainingFrontend(
        training_set.frontend.fbank, num_samples=chunks.num_samples, rir_lengths=chunks.rirs.num_samples
    )
    for _ in range(2):  # the second time from the cache
        augmented = frontend.augment(frontend.at_speed(batch), batch).numpy()
        for row in range(24):
            np.testing.assert_allclose(augmented[row], oracle_waveform(training_set, batch, draws, row), atol=2e-6)
    assert len(frontend.spectra.kept) == (len(set(batch.rir_index)) if cache_bytes else 0)


def test_the_channel_is_response_low_pass_high_pass_and_hiss_in_this_order(training_set: TrainingSet) -> None:
    """Of each row alone, by functions that have tests of their own; hiss is white and a row's own."""
    chunks, frontend = training_set.chunks, training_set.frontend
    settings = dataclasses.replace(chunks.draw_source.settings, aug_prob=0.0, channel_prob=0.5)
    chunks.draw_source = DrawSource(settings)
    batch, draws = everything(training_set)
    clean = frontend.at_speed(batch)
    found = frontend.augment(clean.clone(), batch)
    added = []
    for row in range(24):
        expected = clean[row : row + 1]
        here = slice(row, row + 1)
        if draws.has_tilt[row]:
            expected = shape_spectrum(expected, torch.from_numpy(draws.tilt_db[here]))
        if draws.has_band_limit[row]:
            expected = band_limit(expected, torch.from_numpy(draws.band_limit_hz[here]))
        if draws.has_high_pass[row]:
            expected = high_pass(expected, torch.from_numpy(draws.high_pass_hz[here]))
        difference = (found[here] - expected).double()
        if not draws.has_hiss[row]:
            assert float(difference.abs().max()) < 1e-5
            continue
        ratio_db = 10 * torch.log10(expected.double().square().mean() / difference.square().mean())
        assert float(ratio_db) == pytest.approx(draws.hiss_snr_db[row], abs=0.3)
        added.append((difference / difference.square().mean().sqrt())[0])
    hiss = torch.stack(added)
    assert len(hiss) > 5
    together = hiss @ hiss.T / hiss.shape[1]
    assert float((together - torch.eye(len(hiss))).abs().max()) < 0.08  # no two rows have the same
    assert float((hiss[:, 1:] * hiss[:, :-1]).mean().abs()) < 0.03  # white


def test_what_a_front_end_has_seen_changes_no_bit(training_set: TrainingSet) -> None:
    late = TrainingFrontend(
        training_set.frontend.fbank,
        num_samples=training_set.chunks.num_samples,
        rir_lengths=training_set.chunks.rirs.num_samples,
    )
    first, second = (training_set.chunks[BatchId(1, position, np.arange(12))] for position in (0, 12))
    training_set.frontend(first)
    assert torch.equal(late(second), training_set.frontend(second))


def test_a_sample_does_not_depend_on_its_batch(training_set: TrainingSet) -> None:
    batch, _ = everything(training_set)
    together = training_set.frontend(batch)
    alone = [training_set.frontend(training_set.chunks[BatchId(1, row, np.array([row]))]) for row in range(24)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=0)


def test_plain_rows_pass_untouched(tiny_config: Config, tiny_corpus: Path) -> None:
    args = dataclasses.replace(tiny_config.dataset_args, speed_perturb=False, aug_prob=0.0, channel_prob=0.0)
    config = dataclasses.replace(tiny_config, dataset_args=args)
    training = open_training_set(config, DataFolder(tiny_corpus), build_fbank(config, dither=0.0))
    batch = training.chunks[BatchId(1, 0, np.arange(4))]
    augmented = training.frontend.augment(training.frontend.at_speed(batch), batch)
    np.testing.assert_array_equal(augmented.numpy() * 32768, batch.waveform[0].numpy())


def test_features_have_the_configured_shape_and_zero_mean(tiny_config: Config, tiny_corpus: Path) -> None:
    config = dataclasses.replace(
        tiny_config, dataset_args=dataclasses.replace(tiny_config.dataset_args, spec_aug=False)
    )
    training = open_training_set(config, DataFolder(tiny_corpus), build_fbank(config, dither=1.0))
    batch = batches(training)[0]
    features = training.frontend(batch)
    assert features.shape == (8, 40, 16)
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(8, 16), atol=1e-4, rtol=0)
    assert torch.equal(features, training.frontend(batch))


def test_masks_are_zero(training_set: TrainingSet) -> None:
    masked = 0
    for batch in batches(training_set):
        features = training_set.frontend(batch)
        assert len(batch.mask_rows) == len(batch.time_spans) == len(batch.frequency_spans)
        for row, spans in zip(features[batch.mask_rows], batch.time_spans.tolist(), strict=True):
            for start, end in spans:
                masked += end - start
                assert (row[start:end] == 0).all()
    assert masked > 0


def test_wrong_sample_rate_is_refused(tiny_config: Config, tiny_corpus: Path) -> None:
    config = dataclasses.replace(
        tiny_config, dataset_args=dataclasses.replace(tiny_config.dataset_args, resample_rate=8000)
    )
    with pytest.raises(RecipeError, match=r"sample rate 16000 Hz, but dataset_args.resample_rate is 8000"):
        open_training_set(config, DataFolder(tiny_corpus), build_fbank(config, dither=1.0))


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
        open_training_set(tiny_config, DataFolder(tmp_path), build_fbank(tiny_config, dither=1.0))

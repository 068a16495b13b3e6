"""What the front end keeps from batch to batch: the spectra of impulse responses."""

from functools import partial

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.dataset import frontend
from wespeaker_qm.dataset.chunks import Batch
from wespeaker_qm.dataset.frontend import _RirSpectra

LENGTHS = np.random.default_rng(0).integers(1000, 9000, 60)


def responses(index, seed=0):
    """Rows (R, longest of those drawn) of int16, padded with zeros, as a batch has them."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(-3000, 3000, length).astype(np.int16) for length in LENGTHS]
    rows = torch.zeros(len(index), max(LENGTHS[list(index)]), dtype=torch.int16)
    for row, position in zip(rows, index, strict=True):
        row[: LENGTHS[position]] = torch.from_numpy(drawn[position])
    return rows


def test_a_kept_spectrum_does_not_depend_on_the_batch_it_came_from():
    """A sum over more zeros may have another last digit, and a resumed training first draws a response elsewhere."""
    together = tuple(range(len(LENGTHS)))
    expected = _RirSpectra(8000, LENGTHS)(together, responses(together))
    alone = _RirSpectra(8000, LENGTHS)
    for position in together:
        assert torch.equal(alone((position,), responses((position,)))[0], expected[position]), position


@pytest.mark.parametrize("is_kept", [True, False])
def test_spectra_are_those_of_unit_energy(monkeypatch, is_kept):
    monkeypatch.setattr(frontend, "RIR_CACHE_BYTES", 2**30 if is_kept else 0)
    spectra = _RirSpectra(4000, LENGTHS)
    index = (0, 1, 2, 3, 59)
    rows = responses(index)
    unit = rows.double().numpy() / np.sqrt((rows.double().numpy() ** 2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(spectra(index, rows), np.fft.rfft(unit[:, :4000], n=spectra.size), atol=1e-6)


def test_200_batches_need_few_plans_of_a_gpu(monkeypatch):
    """Each of them reverberates and filters another number of rows; the device "meta" stands for a GPU."""
    seen = set()

    def counted(name, whole, rows, n=None):
        seen.add((name, rows.numel() // rows.shape[-1], n))
        return whole(rows, n=n)

    for name in ("rfft", "irfft"):
        monkeypatch.setattr(torch.fft, name, partial(counted, name, getattr(torch.fft, name)))
    monkeypatch.setattr(frontend, "RIR_CACHE_BYTES", 0)  # spectra of those that are drawn, in each batch
    num_rows, num_samples = 128, 4000
    front_end = frontend.TrainingFrontend(Fbank(dither=1.0), num_samples=num_samples, rir_lengths=LENGTHS).to("meta")
    waveform = torch.empty(num_rows, num_samples, device="meta")
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(200):
        batch = meta_batch(num_rows, num_samples, rng.integers(0, num_rows + 1, 5).tolist())
        counts.add(len(batch.rir_rows))
        assert front_end.augment(waveform, batch).shape == waveform.shape
    assert len(counts) > 90
    assert len(seen) <= 8 * 2 * 2  # up to 128 rows; there and back; reverberation and filters, of one size each


def meta_batch(num_rows, num_samples, counts):
    """A batch without values, of whose rows so many are reverberated, tilted, limited, freed of low tones, masked."""

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    rirs, tilts, limits, high_passes, masks = counts
    rows = [empty(count, dtype=torch.long) for count in (*counts, 0)]
    speeds = [num_rows, *[0] * (len(frontend.SPEEDS) - 1)]
    return Batch(
        epoch=1,
        position=0,
        utterance=torch.arange(num_rows),
        label=empty(num_rows, dtype=torch.long),
        speed_rows=tuple(empty(count, dtype=torch.long) for count in speeds),
        waveform=tuple(empty(count, num_samples, dtype=torch.int16) for count in speeds),
        noise_rows=rows[5],
        noise=empty(0, num_samples, dtype=torch.int16),
        snr_db=empty(0),
        rir_rows=rows[0],
        rir_index=(0,) * rirs,
        rir=empty(rirs, 9000, dtype=torch.int16),
        tilt_rows=rows[1],
        tilt_db=empty(tilts, 6),
        band_limit_rows=rows[2],
        band_limit_hz=empty(limits),
        high_pass_rows=rows[3],
        high_pass_hz=empty(high_passes),
        hiss_rows=rows[5],
        hiss_snr_db=empty(0),
        hiss_start=empty(0),
        mask_rows=rows[4],
        time_spans=empty(masks, 1, 2, dtype=torch.long),
        frequency_spans=empty(masks, 1, 2, dtype=torch.long),
        dither_start=empty(num_rows, dtype=torch.float64),
    )

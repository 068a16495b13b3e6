"""What the front end keeps from batch to batch: the spectra of impulse responses."""

import numpy as np
import pytest
import torch

from wespeaker_qm.dataset import frontend
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

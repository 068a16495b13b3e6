"""Transforms whose number of rows is filled up on a GPU, for which the device "meta" stands: shapes without values."""

import contextlib
from functools import partial

import pytest
import torch

from wespeaker_qm.audio import fft
from wespeaker_qm.audio.fbank import Fbank


class ElsewhereTensor(torch.Tensor):
    """On a CPU, and says that it is not."""

    @property
    def device(self):
        return torch.device("meta")


def elsewhere(rows):
    return rows.as_subclass(ElsewhereTensor)


@pytest.fixture
def shapes(monkeypatch):
    """Rows and size of every transform that torch is asked for."""
    seen = []

    def counted(name, whole, rows, n=None):
        seen.append((name, rows.numel() // rows.shape[-1], n))
        return whole(rows, n=n)

    for name in ("rfft", "irfft"):
        monkeypatch.setattr(torch.fft, name, partial(counted, name, getattr(torch.fft, name)))
    return seen


@pytest.mark.parametrize(("shape", "filled"), [((1, 10), 1), ((5, 12), 8), ((8, 12), 8), ((3, 7, 9), 32)])
def test_rows_that_fill_up_change_nothing(shape, filled, shapes):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectra = fft.rfft(elsewhere(rows), 12).as_subclass(torch.Tensor)
    torch.testing.assert_close(spectra, torch.fft.rfft(rows, n=12), atol=1e-12, rtol=0)
    back = fft.irfft(elsewhere(spectra), 12).as_subclass(torch.Tensor)
    torch.testing.assert_close(back, torch.fft.irfft(spectra, n=12), atol=1e-12, rtol=0)
    assert shapes[::2] == [("rfft", filled, 12), ("irfft", filled, 12)]  # between them those of the comparison


def test_no_rows_stay_none():
    assert fft.rfft(torch.empty(0, 12, device="meta"), 12).shape == (0, 7)


def test_a_cpu_transforms_what_it_is_given(shapes):
    rows = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fft.irfft(fft.rfft(rows, 12), 12), torch.fft.irfft(torch.fft.rfft(rows, n=12), n=12))
    assert [count for _, count, _ in shapes] == [5] * 4


def test_features_of_utterances_need_few_plans(shapes, monkeypatch):
    """100 batches of extraction, nearly each of another number of frames."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it has none for "meta"
    fbank = Fbank(num_mel_bins=16).to("meta")
    generator = torch.Generator().manual_seed(0)
    for rows, num_frames in torch.randint(1, 60, (100, 2), generator=generator).tolist():
        assert fbank(torch.empty(rows, fbank.num_samples(num_frames), device="meta")).shape == (rows, num_frames, 16)
    assert len(shapes) == 100
    assert len(set(shapes)) <= 12  # powers of two up to 4096

"""Draws are functions of (seed, epoch, position), with the stated distributions."""

import dataclasses

import numpy as np
import pytest

from wespeaker_qm.dataset.draws import (
    BAND_LIMIT_HZ,
    KEEP,
    NOISE,
    NUM_TILT_POINTS,
    REVERB,
    SNR_RANGES_DB,
    DrawSettings,
    draw_sample,
)

SETTINGS = DrawSettings(
    seed=3,
    speed_perturb=True,
    aug_prob=0.6,
    channel_prob=0.3,
    num_rirs=5,
    noise_categories=("noise", "speech", "music", "noise"),
    num_frames=100,
    num_mel_bins=40,
    spec_aug_prob=0.5,
    num_t_mask=2,
    max_t=10,
    num_f_mask=1,
    max_f=8,
)
NUM_DRAWS = 4000


@pytest.fixture(scope="module")
def draws() -> list:
    return [draw_sample(SETTINGS, 1, position) for position in range(NUM_DRAWS)]


def share(condition: np.ndarray) -> float:
    return float(np.mean(condition))


def test_a_draw_repeats_and_neighbours_differ() -> None:
    one, again = draw_sample(SETTINGS, 2, 7), draw_sample(SETTINGS, 2, 7)
    for left, right in zip(one, again, strict=True):
        np.testing.assert_array_equal(left, right)
    others = [
        draw_sample(SETTINGS, 2, 8),
        draw_sample(SETTINGS, 3, 7),
        draw_sample(dataclasses.replace(SETTINGS, seed=4), 2, 7),
    ]
    assert len({one.chunk_start, *(other.chunk_start for other in others)}) == 4


def test_speeds_and_augmentations_have_the_stated_chances(draws: list) -> None:
    speeds = np.array([draw.speed_index for draw in draws])
    kinds = np.array([draw.augmentation for draw in draws])
    # Five standard deviations of a share among 4,000 are below 0.04.
    for index in range(3):
        assert share(speeds == index) == pytest.approx(1 / 3, abs=0.04)
    assert share(kinds == KEEP) == pytest.approx(0.4, abs=0.04)
    assert share(kinds == REVERB) == pytest.approx(0.3, abs=0.04)
    assert share(kinds == NOISE) == pytest.approx(0.3, abs=0.04)
    assert share(np.array([draw.tilt_db is not None for draw in draws])) == pytest.approx(0.3, abs=0.04)
    assert share(np.array([draw.band_limit_hz is not None for draw in draws])) == pytest.approx(0.3, abs=0.04)
    assert share(np.array([draw.time_spans.any() for draw in draws])) == pytest.approx(0.5, abs=0.04)


def test_values_lie_in_their_ranges(draws: list) -> None:
    for draw in draws:
        assert 0 <= draw.chunk_start < 1
        if draw.augmentation == NOISE:
            low, high = SNR_RANGES_DB[SETTINGS.noise_categories[draw.noise]]
            assert low <= draw.snr_db <= high
        if draw.augmentation == REVERB:
            assert 0 <= draw.rir < 5
        if draw.tilt_db is not None:
            assert draw.tilt_db.shape == (NUM_TILT_POINTS,)
        if draw.band_limit_hz is not None:
            assert BAND_LIMIT_HZ[0] <= draw.band_limit_hz <= BAND_LIMIT_HZ[1]
        for spans, longest, length in ((draw.time_spans, 10, 100), (draw.frequency_spans, 8, 40)):
            widths = spans[:, 1] - spans[:, 0]
            assert (widths >= 0).all()
            assert (widths <= longest).all()
            assert (spans <= length).all()


def test_snr_fills_its_range(draws: list) -> None:
    snrs = [d.snr_db for d in draws if d.augmentation == NOISE and SETTINGS.noise_categories[d.noise] == "noise"]
    assert np.mean(snrs) == pytest.approx(7.5, abs=1.0)
    assert np.std(snrs) == pytest.approx(15 / np.sqrt(12), abs=0.6)


def test_without_rirs_every_augmentation_is_noise() -> None:
    settings = dataclasses.replace(SETTINGS, num_rirs=0)
    kinds = {draw_sample(settings, 1, position).augmentation for position in range(200)}
    assert kinds == {KEEP, NOISE}


def test_switched_off_means_off() -> None:
    settings = dataclasses.replace(SETTINGS, speed_perturb=False, aug_prob=0.0, channel_prob=0.0, spec_aug_prob=0.0)
    for position in range(50):
        draw = draw_sample(settings, 1, position)
        assert (draw.speed_index, draw.augmentation, draw.tilt_db, draw.band_limit_hz) == (0, KEEP, None, None)
        assert not draw.time_spans.any()
        assert not draw.frequency_spans.any()

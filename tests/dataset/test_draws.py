"""Draws are functions of (seed, epoch, position), with the stated distributions."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from wespeaker_qm.dataset.draws import (
    BAND_LIMIT_HZ,
    HIGH_PASS_HZ,
    HISS_SNR_DB,
    KEEP,
    NOISE,
    NUM_TILT_POINTS,
    REVERB,
    SNR_RANGES_DB,
    SPEEDS,
    TILT_DEVIATION_DB,
    Draws,
    DrawSettings,
    DrawSource,
    _spans,
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
def draws() -> Draws:
    return DrawSource(SETTINGS).draw(1, 0, NUM_DRAWS)


def uniform_p_value(values: np.ndarray, low: float, high: float) -> float:
    return float(stats.kstest(values, "uniform", args=(low, high - low)).pvalue)


def share(condition: np.ndarray) -> float:
    return float(np.mean(condition))


def test_a_sample_is_a_function_of_seed_epoch_and_position(draws: Draws) -> None:
    source = DrawSource(SETTINGS)
    for first, count in ((0, 1), (7, 1), (100, 37), (NUM_DRAWS - 2, 2)):
        for together, alone in zip(draws, source.draw(1, first, count), strict=True):
            np.testing.assert_array_equal(together[first : first + count], alone)
    others = [
        source.draw(1, 8, 1),
        source.draw(2, 7, 1),
        DrawSource(dataclasses.replace(SETTINGS, seed=4)).draw(1, 7, 1),
    ]
    assert len({draws.chunk_start[7], *(other.chunk_start[0] for other in others)}) == 4


def test_far_positions_and_late_epochs_are_drawn_like_near_ones() -> None:
    far = DrawSource(SETTINGS).draw(150, 10**9, 2000)
    assert uniform_p_value(far.chunk_start, 0, 1) > 0.001
    np.testing.assert_array_equal(far.chunk_start[5:6], DrawSource(SETTINGS).draw(150, 10**9 + 5, 1).chunk_start)


def test_speeds_and_augmentations_have_the_stated_chances(draws: Draws) -> None:
    # Five standard deviations of a share among 4,000 are below 0.04.
    for index in range(3):
        assert share(draws.speed_index == index) == pytest.approx(1 / 3, abs=0.04)
    assert share(draws.augmentation == KEEP) == pytest.approx(0.4, abs=0.04)
    assert share(draws.augmentation == REVERB) == pytest.approx(0.3, abs=0.04)
    assert share(draws.augmentation == NOISE) == pytest.approx(0.3, abs=0.04)
    assert share(draws.has_tilt) == pytest.approx(0.3, abs=0.04)
    assert share(draws.has_band_limit) == pytest.approx(0.3, abs=0.04)
    assert share(draws.has_high_pass) == pytest.approx(0.3, abs=0.04)
    assert share(draws.has_hiss) == pytest.approx(0.3, abs=0.04)
    assert share(draws.is_masked) == pytest.approx(0.5, abs=0.04)


def test_places_and_levels_are_uniform(draws: Draws) -> None:
    is_noise = draws.augmentation == NOISE
    for values in (draws.chunk_start, draws.noise_start[is_noise], draws.dither_start, draws.hiss_start):
        assert uniform_p_value(values, 0, 1) > 0.001
    assert uniform_p_value(np.log(draws.high_pass_hz), *np.log(HIGH_PASS_HZ)) > 0.001
    assert uniform_p_value(draws.hiss_snr_db, *HISS_SNR_DB) > 0.001
    assert uniform_p_value(draws.band_limit_hz[draws.has_band_limit], *BAND_LIMIT_HZ) > 0.001
    categories = np.array(SETTINGS.noise_categories)
    for category, snr_range_db in SNR_RANGES_DB.items():
        rows = is_noise & (categories[np.where(is_noise, draws.choice, 0)] == category)
        assert uniform_p_value(draws.snr_db[rows], *snr_range_db) > 0.001


def test_every_noise_and_impulse_response_is_equally_likely(draws: Draws) -> None:
    for kind, number in ((NOISE, 4), (REVERB, 5)):
        counts = np.bincount(draws.choice[draws.augmentation == kind], minlength=number)
        assert len(counts) == number
        assert stats.chisquare(counts).pvalue > 0.001


def test_the_channel_response_is_normal(draws: Draws) -> None:
    values = draws.tilt_db[draws.has_tilt]
    assert values.shape[1] == NUM_TILT_POINTS
    assert stats.kstest(values.ravel(), "norm", args=(0, TILT_DEVIATION_DB)).pvalue > 0.001
    assert abs(np.corrcoef(values.T) - np.eye(NUM_TILT_POINTS)).max() < 0.15


def test_draws_do_not_hang_together(draws: Draws) -> None:
    columns = [draws.speed_index, draws.chunk_start, draws.augmentation, draws.noise_start, draws.snr_db]
    columns += [draws.dither_start, draws.chunk_start[np.arange(NUM_DRAWS) - 1]]  # the last: its neighbour's
    correlation = np.corrcoef(np.stack(columns))
    correlation[2, 4] = correlation[4, 2] = 0  # the level's range is the noise's, so it is chosen by the kind
    assert abs(correlation - np.eye(len(columns))).max() < 0.08


def test_masks_lie_within_the_features(draws: Draws) -> None:
    for spans, longest, length in ((draws.time_spans, 10, 100), (draws.frequency_spans, 8, 40)):
        masked = spans[draws.is_masked]
        widths = masked[..., 1] - masked[..., 0]
        assert widths.min() == 1
        assert widths.max() == longest
        assert masked[..., 0].min() == 0
        assert masked[..., 1].max() == length
        inner = masked[..., 0] < length - longest
        assert stats.chisquare(np.bincount(widths[inner], minlength=longest + 1)[1:]).pvalue > 0.001


def test_without_rirs_every_augmentation_is_noise() -> None:
    without = DrawSource(dataclasses.replace(SETTINGS, num_rirs=0)).draw(1, 0, 200)
    assert set(without.augmentation) == {KEEP, NOISE}
    without = DrawSource(dataclasses.replace(SETTINGS, noise_categories=())).draw(1, 0, 200)
    assert set(without.augmentation) == {KEEP, REVERB}
    assert set(without.choice[without.augmentation == REVERB]) == set(range(5))


def test_switched_off_means_off() -> None:
    settings = dataclasses.replace(SETTINGS, speed_perturb=False, aug_prob=0.0, channel_prob=0.0, spec_aug_prob=0.0)
    draws = DrawSource(settings).draw(1, 0, 50)
    channel = (draws.has_tilt, draws.has_band_limit, draws.has_high_pass, draws.has_hiss)
    for values in (draws.speed_index, draws.augmentation, *channel, draws.is_masked):
        assert not values.any()


def test_a_switch_changes_no_other_draw(draws: Draws) -> None:
    clean = DrawSource(dataclasses.replace(SETTINGS, aug_prob=0.0, spec_aug_prob=0.0)).draw(1, 0, NUM_DRAWS)
    np.testing.assert_array_equal(clean.chunk_start, draws.chunk_start)
    np.testing.assert_array_equal(clean.speed_index, draws.speed_index)
    np.testing.assert_array_equal(clean.tilt_db, draws.tilt_db)


def test_the_ranges_are_those_of_wespeaker_and_of_the_configuration_page() -> None:
    """The other tests take them as they are; these are WeSpeaker's ``add_reverb_noise`` and ``speed_perturb``."""
    assert SNR_RANGES_DB == {"noise": (0, 15), "speech": (10, 30), "music": (5, 15)}
    assert SPEEDS == (1.0, 0.9, 1.1)
    assert (BAND_LIMIT_HZ, NUM_TILT_POINTS, TILT_DEVIATION_DB) == ((2800, 4000), 8, 6)
    assert (HIGH_PASS_HZ, HISS_SNR_DB) == ((50, 400), (15, 50))


def test_every_number_of_a_sample_is_its_own(draws: Draws) -> None:
    """No two columns are one stretch of the stream: uniform parts of all draws, none a copy of another."""
    columns = [draws.chunk_start, draws.noise_start, draws.dither_start, *stats.norm.cdf(draws.tilt_db / 6).T]
    low_hz, high_hz = BAND_LIMIT_HZ
    columns.append((draws.band_limit_hz - low_hz) / (high_hz - low_hz))
    columns += [np.log(draws.high_pass_hz), draws.hiss_snr_db, draws.hiss_start]
    columns += [draws.has_tilt, draws.has_band_limit, draws.has_high_pass, draws.has_hiss]
    correlation = np.corrcoef(np.stack(columns))
    assert abs(correlation - np.eye(len(columns))).max() < 0.08


def test_a_span_of_the_greatest_width_ends_with_the_features() -> None:
    """By hand: starts at 0, in the middle, in the last frame; widths least, middle, greatest."""
    numbers = np.array([[0.0, 0.5, 0.999, 0.0, 0.5, 0.999]])
    assert _spans(numbers, longest=10, length=100).tolist() == [[[0, 1], [50, 56], [99, 100]]]
    assert _spans(numbers[:, ::-1].copy(), longest=1, length=4).tolist() == [[[3, 4], [2, 3], [0, 1]]]

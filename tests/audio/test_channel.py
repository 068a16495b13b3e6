"""Channels: the filters against their analogue prototypes, noise, level and codecs against what they promise."""

import hashlib
import math

import numpy as np
import pytest
from scipy.signal import butter, sosfreqz

from wespeaker_qm.audio.channel import (
    CODECS,
    HIGH_EDGE,
    LEVEL_DB,
    LOW_EDGE_HZ,
    NOISE_SNR_DB,
    NUM_PEAKS,
    PEAK_LIMIT,
    Channel,
    apply_channel,
    draw_channel,
    peak_section,
    shelf_section,
    through_codec,
)

RATE = 16000
NEUTRAL = Channel(
    snr_db=200.0,
    noise_corner_hz=4000.0,
    equaliser=np.array([[1.0, 0, 0, 1, 0, 0]]),
    band_hz=(1.0, 7999.0),
    level_db=-20.0,
    codec="PCM_16",
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def speech(num_samples: int = RATE, seed: int = 0) -> np.ndarray:
    return (0.1 * rng(seed).standard_normal(num_samples)).astype(np.float32)


def gain_db(section: np.ndarray, frequency_hz: float) -> float:
    _, response = sosfreqz(section[None], [frequency_hz], fs=RATE)
    return float(20 * np.log10(np.abs(response[0])))


def analogue_db(numerator: list[float], denominator: list[float], centre_hz: float, frequency_hz: float) -> float:
    """Gain of an analogue filter of centre 1 at the frequency that the bilinear transform takes to ``frequency_hz``."""
    s = 1j * math.tan(math.pi * frequency_hz / RATE) / math.tan(math.pi * centre_hz / RATE)
    return float(20 * np.log10(abs(np.polyval(numerator, s) / np.polyval(denominator, s))))


def rms_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.square(waveform.astype(np.float64)).mean()))


FREQUENCIES = (20.0, 150.0, 700.0, 1900.0, 5200.0, 7900.0)


@pytest.mark.parametrize("gain", [-9.0, 4.0])
@pytest.mark.parametrize(("centre_hz", "q"), [(120.0, 0.5), (1500.0, 2.0), (6900.0, 1.0)])
def test_a_peak_is_its_analogue_prototype(gain, centre_hz, q):
    section = peak_section(centre_hz, gain, q, RATE)
    a = 10 ** (gain / 40)
    for frequency_hz in FREQUENCIES:
        expected = analogue_db([1, a / q, 1], [1, 1 / (a * q), 1], centre_hz, frequency_hz)
        assert gain_db(section, frequency_hz) == pytest.approx(expected, abs=1e-9)
    assert gain_db(section, centre_hz) == pytest.approx(gain, abs=1e-9)
    assert gain_db(section, 0.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("gain", [-7.0, 5.0])
@pytest.mark.parametrize("corner_hz", [100.0, 1000.0, 5900.0])
@pytest.mark.parametrize("is_high", [False, True])
def test_a_shelf_is_its_analogue_prototype(gain, corner_hz, is_high):
    section = shelf_section(corner_hz, gain, RATE, is_high=is_high)
    a = 10 ** (gain / 40)
    numerator, denominator = [a, a * math.sqrt(2 * a), a * a], [a, math.sqrt(2 * a), 1]
    if is_high:
        numerator, denominator = numerator[::-1], denominator[::-1]
    for frequency_hz in FREQUENCIES:
        expected = analogue_db(numerator, denominator, corner_hz, frequency_hz)
        assert gain_db(section, frequency_hz) == pytest.approx(expected, abs=1e-9)
    inside, outside = (7999.99, 0.0) if is_high else (0.0, 7999.99)
    assert gain_db(section, inside) == pytest.approx(gain, abs=1e-3)
    assert gain_db(section, corner_hz) == pytest.approx(gain / 2, abs=1e-9)
    assert gain_db(section, outside) == pytest.approx(0.0, abs=1e-3)


def test_a_neutral_channel_changes_the_level_only():
    waveform = speech()
    received = apply_channel(waveform, NEUTRAL, RATE, rng())
    assert rms_db(received) == pytest.approx(-20.0, abs=0.01)
    # The edges of the band turn the phase a little at both ends of the spectrum.
    assert np.corrcoef(waveform[1000:], received[1000:])[0, 1] > 0.999


def test_the_equaliser_and_the_band_filter_as_a_recursion_in_float64_says():
    channel = draw_channel(rng(3), RATE)._replace(snr_db=300.0, codec="PCM_16", level_db=-30.0)
    waveform = speech(2000)
    sections = [*channel.equaliser, *butter(2, channel.band_hz, "bandpass", fs=RATE, output="sos")]
    expected = waveform.astype(np.float64)
    for b0, b1, b2, _, a1, a2 in sections:
        output = np.zeros(len(expected) + 2)
        padded = np.concatenate([[0.0, 0.0], expected])
        for n in range(2, len(padded)):
            output[n] = b0 * padded[n] + b1 * padded[n - 1] + b2 * padded[n - 2]
            output[n] -= a1 * output[n - 1] + a2 * output[n - 2]
        expected = output[2:]
    expected *= 10 ** (-30 / 20) / np.sqrt(np.square(expected).mean())
    np.testing.assert_allclose(apply_channel(waveform, channel, RATE, rng()), expected, atol=0.5001 / 32768)


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_has_its_level(snr_db):
    waveform = speech(4 * RATE)
    clean = apply_channel(waveform, NEUTRAL, RATE, rng(1)).astype(np.float64)
    noisy = apply_channel(waveform, NEUTRAL._replace(snr_db=snr_db), RATE, rng(1)).astype(np.float64)
    noise = noisy - clean * (noisy @ clean) / (clean @ clean)
    assert rms_db(noisy - noise) - rms_db(noise) == pytest.approx(snr_db, abs=0.2)


def test_noise_falls_above_its_corner():
    channel = NEUTRAL._replace(snr_db=-60.0, noise_corner_hz=200.0)  # nothing but noise
    received = apply_channel(speech(8 * RATE), channel, RATE, rng(1)).astype(np.float64)
    power = np.square(np.abs(np.fft.rfft(received)))
    octaves = [power[8 * low : 16 * low].mean() for low in (20, 40, 1000, 2000)]  # 8 bins a Hz
    assert 10 * np.log10(octaves[1] / octaves[0]) == pytest.approx(0, abs=1)
    assert 10 * np.log10(octaves[3] / octaves[2]) == pytest.approx(-6, abs=1.5)


def test_peaks_are_not_clipped():
    waveform = np.zeros(RATE, dtype=np.float32)
    waveform[::4000] = 0.9
    received = apply_channel(waveform, NEUTRAL._replace(level_db=-18.0), RATE, rng())
    assert np.abs(received).max() == pytest.approx(PEAK_LIMIT, abs=1e-4)


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_keeps_time_and_length(codec):
    waveform = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE + 7) / RATE)
    decoded = through_codec(waveform, codec, RATE)
    assert decoded.shape == waveform.shape and decoded.dtype == np.float32
    assert np.array_equal(decoded * 32768, np.round(decoded * 32768))
    error_db = rms_db(decoded[200:] - waveform[200:]) - rms_db(waveform)
    assert error_db < {"PCM_16": -80, "ULAW": -35, "ALAW": -35, "IMA_ADPCM": -25}[codec]
    assert (error_db > -60) == (codec != "PCM_16")


def test_g711_is_that_of_the_standard():
    """The eight segments of mu-law (ITU-T G.711): 14-bit magnitudes in steps of 2 to 256, decision values between."""
    pcm = np.arange(-32768, 32768, 7, dtype=np.int64)
    magnitude = np.minimum(np.abs(pcm) // 4, 8158) + 33  # of 14 bits, biased
    segment = np.floor(np.log2(magnitude)).astype(np.int64) - 5
    step = 2 ** (segment + 1)
    decoded = np.sign(pcm) * 4 * ((magnitude // step) * step + step // 2 - 33)
    found = np.round(through_codec(pcm / 32768, "ULAW", 8000).astype(np.float64) * 32768)
    assert np.abs(found - decoded).max() <= 4 * step.max() / 2
    assert np.median(np.abs(found - decoded)) == 0


def test_draws_stay_in_their_ranges_and_differ():
    channels = [draw_channel(rng(seed), RATE) for seed in range(200)]
    for channel in channels:
        assert NOISE_SNR_DB[0] <= channel.snr_db <= NOISE_SNR_DB[1]
        assert 100 <= channel.noise_corner_hz < RATE / 2
        assert channel.equaliser.shape == (NUM_PEAKS + 2, 6)
        assert LOW_EDGE_HZ[0] <= channel.band_hz[0] <= LOW_EDGE_HZ[1]
        assert HIGH_EDGE[0] <= channel.band_hz[1] / (RATE / 2) <= HIGH_EDGE[1]
        assert LEVEL_DB[0] <= channel.level_db <= LEVEL_DB[1]
        poles = [np.abs(np.roots(section[3:])).max() for section in channel.equaliser]
        assert max(poles) < 1, "a filter that is not stable"
    assert {channel.codec for channel in channels} == set(CODECS)
    assert len({channel.band_hz for channel in channels}) == 200


@pytest.mark.parametrize("rate", [4000, 8000, 48000])
def test_other_sample_rates(rate):
    for seed in range(5):
        received = apply_channel(speech(rate, seed), draw_channel(rng(seed), rate), rate, rng(seed))
        assert received.shape == (rate,) and np.isfinite(received).all() and received.any()


def test_the_samples_are_the_same_on_every_machine():
    """A checksum that was written on x86-64: what another machine makes of the same recording is compared with it."""
    number = np.arange(3 * RATE, dtype=np.int64)
    waveform = (((number * number * 31 + number * 17) % 20011) / 40022 - 0.25).astype(np.float32)
    digest = hashlib.sha256()
    codecs = set()
    for seed in range(8):
        generator = rng(seed)
        channel = draw_channel(generator, RATE)
        codecs.add(channel.codec)
        digest.update((apply_channel(waveform, channel, RATE, generator) * 32768).astype("<i2").tobytes())
    assert codecs == set(CODECS)
    assert digest.hexdigest() == "06f88f531ecb9c34790da62d8d97840617c31304fdccf626f8c9d7ace4f9affe"

"""Seconds of speech, clipping, bandwidth: on signals that were made to have so much of each."""

import numpy as np
import pytest

from wespeaker_qm.speaker.listening import Listening, clipped, listen, speech_s

RATE = 16000


def noise(seconds, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_loud_parts_count_as_speech_whatever_the_level(gain):
    quiet = noise(3, 0.0005)
    recording = gain * np.concatenate([quiet, noise(2.5), quiet, noise(1.5), quiet])
    assert speech_s(recording, RATE) == pytest.approx(4.0, abs=0.1)


def test_all_of_an_even_voice_counts_and_nothing_of_silence():
    assert speech_s(noise(3), RATE) == pytest.approx(2.98, abs=0.01)
    assert speech_s(np.zeros(RATE, np.float32), RATE) == 0
    assert speech_s(noise(1, 1e-4), RATE) == 0  # hiss at -80 dB
    assert speech_s(noise(0.02), RATE) == 0


def test_clipped_samples_are_counted_in_runs():
    wave = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE).astype(np.float32)
    assert clipped(wave) == 0
    limited = np.clip(wave, -0.8, 0.8)
    expected = (np.abs(limited) == np.float32(0.8)).mean()
    assert clipped(limited) == pytest.approx(expected)
    assert clipped(np.clip(wave, -1, 0.8)) == pytest.approx(expected / 2, rel=0.05)
    assert clipped(0.3 * limited) == pytest.approx(expected)  # turned down afterwards
    assert clipped(np.zeros(100, np.float32)) == 0
    assert clipped(np.array([0.1, 0.5, 0.5, 0.1], np.float32)) == 0


def test_it_is_all_measured():
    loud = np.clip(noise(3, 0.5), -0.6, 0.6)
    heard = listen(loud, loud, RATE)
    assert heard.duration_s == 3
    assert heard.speech_s > 2.9
    assert heard.clipped == clipped(loud) > 0
    assert heard.bandwidth_hz == pytest.approx(8000, abs=100)


def test_a_good_recording_has_no_warning():
    assert Listening(5.0, 4.0, 0.0, 7900).warnings("a.wav", 7500) == []
    assert Listening(5.0, 4.0, 0.0, 3900).warnings("a.wav", None) == []
    assert Listening(5.0, 4.0, 0.0, 3900).warnings("a.wav", 3900) == []


def test_each_fault_is_a_sentence_that_names_the_recording():
    short, limit, narrow = Listening(5.0, 1.25, 0.02, 3900).warnings("a.wav", 7500)
    assert short == "a.wav: 1.2 s of speech, less than 2 s: the score is unsure"
    (nearly,) = Listening(5.0, 1.99, 0.0, 7900).warnings("a.wav", 7500)
    assert nearly == "a.wav: 1.9 s of speech, less than 2 s: the score is unsure"
    assert limit == "a.wav: clipped: 2.0 % of the samples lie at the limit; record it lower"
    assert narrow.startswith("a.wav: nothing above 3.9 kHz, where the recordings that thresholds rest on reach 7.5 kHz")

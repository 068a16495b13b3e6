"""A model folder in use: the bits and the scores of the recipe, for any recording."""

import subprocess
import sys
import threading

import kaldiio
import numpy as np
import pytest
import soundfile

from wespeaker_qm import Speaker
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.score.cosine import Directions
from wespeaker_qm.speaker.recordings import network_input, read_recording
from wespeaker_qm.speaker.torch_network import TorchNetwork
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.utils.errors import RecipeError


@pytest.fixture(scope="module")
def model(model_run):
    return Speaker.load(model_run.run.model_folder)


@pytest.fixture(scope="module")
def wav(model_run):
    """Function: the recording of an utterance."""
    return lambda key: model_run.data.path / "eval" / "wav" / f"{key}.wav"


@pytest.fixture(scope="module")
def xvectors(model_run):
    return {key: value for key, value in kaldiio.load_scp(str(model_run.run.xvectors("eval"))).items()}


def test_embeddings_are_those_of_stage_4_to_the_bit(model, wav, xvectors):
    keys = sorted(xvectors)
    expected = np.stack([xvectors[key] for key in keys])
    for batch in (1, 5, 100):
        found = model.embed([wav(key) for key in keys], batch=batch)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    alone = model.embed(wav(keys[0]))
    assert alone.shape == (8,)
    np.testing.assert_array_equal(alone, expected[0])
    samples, rate = soundfile.read(wav(keys[0]))
    np.testing.assert_array_equal(model.embed(samples, sample_rate=rate), expected[0])
    assert model.embed([]).shape == (0, 8)


def test_digital_silence_inside_is_left_out_as_in_stage_4(model, wav, xvectors):
    """By the 23 frames of it, and cut there a recording has the same embedding."""
    audio = read_recording(wav("eval0-3"), model.info.features)
    left = network_input(audio, model.info.features, model.info.network.min_frames)
    assert len(left) == len(audio.waveform) - 23 * 160
    np.testing.assert_array_equal(model.embed(left, sample_rate=16000), xvectors["eval0-3"])
    assert np.any(model.network.embed([audio.waveform])[0] != xvectors["eval0-3"])


def test_the_zip_embeds_alike(model, model_run, wav, xvectors):
    zipped = Speaker.load(model_run.run.model_zip)
    assert zipped.fingerprint == model.fingerprint
    np.testing.assert_array_equal(zipped.embed(wav("eval0-0")), xvectors["eval0-0"])


def test_scores_are_those_of_stages_5_to_7(model, model_run, wav):
    trials = read_trial_table(model_run.data.trials("eval"))
    expected = {name: read_scores(model_run.run.scores("eval", name), trials).scores for name in ("", "asnorm")}
    expected["llr"] = read_scores(model_run.run.scores("eval", "calibrated"), trials).scores
    change = 1e-6 + model.info.scoring.largest_change
    for trial in range(0, len(trials), 23):
        names = [trials.utterances[side[trial]] for side in (trials.enrolment, trials.test)]
        decision = model.verify(*map(wav, names), far=0.1)
        assert decision.cosine == pytest.approx(expected[""][trial], abs=1e-6)
        assert decision.score == pytest.approx(expected["asnorm"][trial], abs=change)
        assert decision.llr == pytest.approx(expected["llr"][trial], abs=10 * change)
        embeddings = [model.embed(wav(name)) for name in names]
        assert model.score(*embeddings) == pytest.approx(decision.score, abs=1e-6)
        assert model.cosine(*embeddings) == pytest.approx(decision.cosine, abs=1e-9)


def test_many_scores_at_once_equal_those_one_by_one(model, xvectors):
    embeddings = np.stack(list(xvectors.values()))
    sides = model.scorer.sides(embeddings[:5]), model.scorer.sides(embeddings[5:12])
    found = model.scorer.scores(*sides)
    assert found.shape == (5, 7)
    for one in range(5):
        for other in range(7):
            assert found[one, other] == pytest.approx(model.score(embeddings[one], embeddings[5 + other]), abs=1e-6)
    with pytest.raises(ValueError, match=r"embeddings of shape \(3,\), expected \(N, 8\)"):
        model.scorer.sides(np.zeros(3, np.float32))


def test_a_decision_says_what_it_rests_on(model, model_run, wav):
    evidence = model.info.evidence
    threshold = next(each for each in evidence.thresholds if each.far == 0.1)
    scores = {}
    for one, other in (("eval0-0", "eval0-1"), ("eval0-0", "eval5-3")):
        decision = model.verify(wav(one), wav(other), far=0.1)
        assert decision.threshold == threshold.threshold
        assert decision.threshold_interval == threshold.interval
        assert decision.same is (decision.score >= threshold.threshold)
        assert decision.rests_on == "240 non-target and 36 target trials of 6 speakers (list eval of voices)"
        assert all(0.5 < seconds < 1.3 for seconds in decision.seconds_of_speech)
        assert [text.partition(":")[0] for text in decision.warnings[:2]] == [str(wav(one)), str(wav(other))]
        scores[one, other] = decision.score
    # Symmetric, and a recording is most like itself.
    assert model.verify(wav("eval0-1"), wav("eval0-0")).score == pytest.approx(scores["eval0-0", "eval0-1"], abs=1e-9)
    assert model.verify(wav("eval0-0"), wav("eval0-0")).cosine == pytest.approx(1)


def test_a_rate_that_the_list_cannot_tell_gives_a_score_and_no_decision(model, wav):
    decision = model.verify(wav("eval0-0"), wav("eval0-1"), far=1e-3)
    assert decision.same is decision.threshold is decision.threshold_interval is None
    assert np.isfinite(decision.score)
    assert decision.warnings[-1].startswith("no threshold: a false-accept rate of 0.001 takes 1,000 non-target trials")


def test_windows_are_embedded_as_files_of_their_own(model, wav, tmp_path):
    samples, rate = soundfile.read(wav("eval0-0"), dtype="int16")
    long = np.concatenate([samples, np.zeros(4000, np.int16), samples, samples])  # silence counts in the times
    windows = model.embed_windows(long, 1.0, 0.5, sample_rate=rate, batch=2)
    total = len(long) / rate
    np.testing.assert_allclose(windows.start_s[:-1], 0.5 * np.arange(len(windows.start_s) - 1))
    assert windows.start_s[-1] == pytest.approx(total - 1)
    np.testing.assert_allclose(windows.end_s, windows.start_s + 1)
    assert np.all(np.diff(windows.start_s) > 0)
    for start, embedding in zip(windows.start_s, windows.embeddings, strict=True):
        first = round(start * rate)
        np.testing.assert_array_equal(embedding, model.embed(long[first : first + rate], sample_rate=rate))


def test_a_recording_that_is_shorter_than_a_window_is_one(model, wav):
    windows = model.embed_windows(wav("eval0-0"), 60.0, 30.0)
    duration = soundfile.info(wav("eval0-0")).duration
    np.testing.assert_allclose([windows.start_s[0], windows.end_s[0]], [0, duration])
    np.testing.assert_array_equal(windows.embeddings[0], model.embed(wav("eval0-0")))
    exact = model.embed_windows(np.tile(np.arange(100, dtype=np.int16), 480), 1.0, 1.0, sample_rate=16000)
    np.testing.assert_array_equal(exact.start_s, [0, 1, 2])


@pytest.mark.parametrize(("window_s", "step_s"), [(0.05, 1.0), (1.0, 0.0), (1.0, -1.0)])
def test_windows_that_cannot_be_embedded_are_refused(model, wav, window_s, step_s):
    with pytest.raises(RecipeError, match=r"expected windows of at least 0\.105 s and a step above 0"):
        model.embed_windows(wav("eval0-0"), window_s, step_s)


def test_several_threads_get_what_one_gets(model, wav, xvectors):
    found = {}

    def work(key):
        found[key] = model.embed(wav(key))

    threads = [threading.Thread(target=work, args=(key,)) for key in xvectors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == xvectors.keys()
    for key, embedding in found.items():
        np.testing.assert_array_equal(embedding, xvectors[key])


def test_what_is_known_of_a_model(model, model_run):
    assert (model.sample_rate, model.embed_dim) == (16000, 8)
    assert model.info.training["corpus"] == "voices"
    assert model.fingerprint == ModelFolder.read(model_run.run.model_folder).fingerprint
    assert isinstance(model.network, TorchNetwork)


def test_errors_name_the_recording(model, wav, tmp_path):
    with pytest.raises(RecipeError, match=r"none\.wav: no such file"):
        model.embed([wav("eval0-0"), tmp_path / "none.wav"])
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(0).uniform(-1, 1, 800), 16000)
    with pytest.raises(RecipeError, match=r"short\.wav: 0\.050 s of audio, expected at least 0\.105 s"):
        model.verify(wav("eval0-0"), tmp_path / "short.wav")
    with pytest.raises(RecipeError, match="batch: found 0, expected at least 1"):
        model.embed([wav("eval0-0")], batch=0)
    with pytest.raises(RecipeError, match="expected a rate between 1e-12 and 1"):
        model.verify(wav("eval0-0"), wav("eval0-1"), far=1.0)


def test_an_embedding_that_is_not_finite_is_told(model, wav, monkeypatch):
    monkeypatch.setattr(model.network, "embed", lambda waveforms: np.full((len(waveforms), 8), np.nan, np.float32))
    with pytest.raises(RecipeError, match=r"eval0-0\.wav: its embedding is not finite"):
        model.embed(wav("eval0-0"))


def test_a_network_that_is_not_known_is_told(model_run):
    from dataclasses import replace

    folder = ModelFolder.read(model_run.run.model_folder)
    for changes, message in (
        ({"encoder": "Wav2Vec"}, "found the network 'Wav2Vec', expected one of "),
        ({"arguments": {"depth": 3}}, r"no ResNet34 has the sizes \{'depth': 3\}"),
        ({"arguments": {**folder.network.arguments, "embed_dim": 9}}, "not fit the network"),
    ):
        other = replace(folder, network=replace(folder.network, **changes))
        with pytest.raises(RecipeError, match=message):
            TorchNetwork(other)


def test_everything_but_the_network_needs_no_torch(model_run, wav):
    """With another network in its place, as ONNX Runtime's."""
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from wespeaker_qm import RecipeError, Speaker
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.utils.extras import installation

class Network:
    sample_rate, embed_dim, max_frames = 16000, 8, None
    def embed(self, waveforms):
        return np.stack([np.abs(np.fft.rfft(waveform))[100:108] for waveform in waveforms]).astype(np.float32)

path = {str(model_run.run.model_folder)!r}
decision = Speaker(ModelFolder.read(path), Network()).verify({str(wav("eval0-0"))!r}, {str(wav("eval1-0"))!r}, far=0.1)
assert decision.same in (True, False)
try:
    Speaker.load(path)
except RecipeError as error:
    assert "needs the package torch, which is not installed: " + installation("train") in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_directions_are_from_the_training_mean(model, model_run, xvectors):
    """What ``embed`` returns is raw; scoring subtracts."""
    rows = np.stack([xvectors["eval0-0"], xvectors["eval0-1"]])
    mean = np.load(model_run.run.mean_xvector)
    plain = Directions.of(rows, mean, ["a", "b"]).cosines(np.array([0]), np.array([1]))[0]
    assert model.cosine(*rows) == pytest.approx(plain, abs=1e-12)

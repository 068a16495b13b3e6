"""A model as an .onnx file: the same answers as its folder, without torch and alone; and in 8 bits."""

import dataclasses
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.export.contents import FeatureCard, NetworkCard, ScoringCard
from wespeaker_qm.export.files import COHORT, DESCRIPTION, WEIGHTS, description, safetensors
from wespeaker_qm.export.folder import ModelFolder, fingerprint
from wespeaker_qm.models.encoder import window_frames
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.speaker.onnx_model import write_int8_model, write_onnx_model
from wespeaker_qm.speaker.onnx_network import OnnxNetwork, window_starts
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.extras import installation

DIM, RATE = 16, 16000


def write_model(folder, *, half=True, window=None):
    """A small model with a cohort."""
    torch.manual_seed(1)
    encoder = ResNet((2, 2, 2, 2), feat_dim=40, embed_dim=DIM, m_channels=4, window=window)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    sizes = {"feat_dim": 40, "embed_dim": DIM, "m_channels": 4, "window": window}
    network = NetworkCard(encoder="ResNet18", arguments=sizes, embed_dim=DIM, min_frames=9)
    features = FeatureCard(sample_rate=RATE, num_mel_bins=40, frame_length_ms=25, frame_shift_ms=10, trim_silence=True)
    rng = np.random.default_rng(0)
    mean, cohort = 0.1 * rng.standard_normal(DIM), rng.standard_normal((30, DIM))
    tensors = {"mean": mean.astype(np.float32), "speakers": cohort.astype(np.float16 if half else np.float32)}
    files = {WEIGHTS: safetensors(weights), COHORT: safetensors(tensors)}
    content = {
        "fingerprint": fingerprint(network, features, weights),
        "network": dataclasses.asdict(network),
        "features": dataclasses.asdict(features),
        "scoring": dataclasses.asdict(ScoringCard(normalisation="asnorm", top_n=10, largest_change=0.0)),
        "calibration": None,
        "evidence": None,
        "training": {"corpus": "tests"},
        "figures": {},
    }
    folder.mkdir()
    for name, data in {**files, DESCRIPTION: description(content, files)}.items():
        (folder / name).write_bytes(data)
    return folder


def recording(seed, duration_s=2.0):
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(RATE * duration_s)) / RATE
    buzz = sum(np.sin(2 * np.pi * k * (90 + 20 * seed) * time_s) / k for k in range(1, 20))
    return (0.05 * buzz * (1.2 + np.sin(8 * time_s)) + 0.002 * rng.standard_normal(len(time_s))).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model, and beside it its .onnx files."""
    root = tmp_path_factory.mktemp("models")
    folder = ModelFolder.read(write_model(root / "model"))
    for features in ("outside", "inside"):
        write_onnx_model(folder, root / f"{features}.onnx", features)
    return root


@pytest.mark.parametrize("features", ["outside", "inside"])
def test_answers_are_those_of_the_folder(model, features, tmp_path):
    shutil.copy(model / f"{features}.onnx", tmp_path / "alone.onnx")
    alone, whole = Speaker.load(tmp_path / "alone.onnx"), Speaker.load(model / "model", device="cpu")
    assert alone.fingerprint == whole.fingerprint
    assert (alone.sample_rate, alone.embed_dim) == (RATE, DIM)
    pausing = np.insert(recording(3), 9000, np.zeros(7000, np.float32))
    waveforms = [recording(0), recording(1, 0.5), recording(2, 3.3), pausing]
    expected = whole.embed(waveforms, sample_rate=RATE)
    np.testing.assert_allclose(alone.embed(waveforms, sample_rate=RATE), expected, rtol=0, atol=1e-5)
    found, wanted = (each.verify(waveforms[0], waveforms[2], sample_rate=RATE) for each in (alone, whole))
    assert found.score == pytest.approx(wanted.score, abs=1e-4)
    assert dataclasses.replace(found, score=0, cosine=0) == dataclasses.replace(wanted, score=0, cosine=0)


@pytest.mark.parametrize("features", ["outside", "inside"])
def test_windows_of_any_number_are_in_the_graph(features, tmp_path):
    folder = write_model(tmp_path / "model", window=24)
    write_onnx_model(ModelFolder.read(folder), tmp_path / "alone.onnx", features)
    alone, whole = Speaker.load(tmp_path / "alone.onnx"), Speaker.load(folder, device="cpu")
    plain = Speaker.load(write_model(tmp_path / "plain"), device="cpu")
    for duration_s in (0.2, 0.255, 0.265, 0.5, 3.3):  # 18, 24, 25, 48 and 328 frames
        waveforms = [recording(3, duration_s)]
        expected = whole.embed(waveforms, sample_rate=RATE)
        np.testing.assert_allclose(alone.embed(waveforms, sample_rate=RATE), expected, rtol=0, atol=1e-5)
        (one,), (other,) = plain.embed(waveforms, sample_rate=RATE), expected
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert (cosine > 1 - 1e-5) == (duration_s <= 0.255)


@pytest.mark.parametrize("features", ["outside", "inside"])
def test_a_long_recording_takes_the_memory_of_a_minute(features, tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model", window=24)
    write_onnx_model(ModelFolder.read(folder), tmp_path / "alone.onnx", features)
    alone, whole = Speaker.load(tmp_path / "alone.onnx"), Speaker.load(folder, device="cpu")
    given = []
    run = alone.network._run
    monkeypatch.setattr(alone.network, "_run", lambda inputs: given.append(inputs) or run(inputs))
    monkeypatch.setattr("wespeaker_qm.speaker.onnx_network.FRAMES_PER_PIECE", 300)
    for num_frames in (300, 301, 311, 1000):
        waveform = recording(3, num_frames / 100 + 0.016)
        given.clear()
        found = alone.embed(waveform, sample_rate=RATE)
        assert len(given) == (1 if num_frames <= 300 else -(-(-(-(num_frames - 24) // 12) + 1) // 12))
        widest = {"outside": 300, "inside": 12 * (23 * 160 + 400)}[features]
        for inputs in given:
            (value,) = inputs.values()
            assert len(value) <= 12 and len(value) * value.shape[1] <= widest
        np.testing.assert_allclose(found, whole.embed(waveform, sample_rate=RATE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [2, 3, 24, 41])
def test_windows_of_long_recordings_are_those_of_the_network(window):
    for num_frames in range(window + 1, window + 200):
        expected = window_frames(torch.tensor(num_frames), window)
        assert window_starts(num_frames, window).tolist() == expected[:, 0].tolist()


def test_a_network_without_windows_refuses_what_is_too_long_for_the_memory(model, monkeypatch, tmp_path):
    alone = Speaker.load(model / "outside.onnx")
    assert alone.network.max_frames == 60_000 and Speaker.load(model / "model", device="cpu").network.max_frames is None
    monkeypatch.setattr(alone.network, "max_frames", 98)
    write_wav(tmp_path / "long.wav", recording(0, 0.995), RATE)
    write_wav(tmp_path / "longer.wav", recording(0, 1.015), RATE)
    assert alone.embed(tmp_path / "long.wav").shape == (DIM,)
    message = r"longer\.wav: 1 s of audio, but an \.onnx file of this network embeds at most 1 s as one: .*--window 3"
    with pytest.raises(RecipeError, match=message):
        alone.embed(tmp_path / "longer.wav")
    assert alone.embed_windows(tmp_path / "longer.wav", 0.5, 0.25).embeddings.shape == (4, DIM)


def test_what_is_known_of_the_model_stands_in_the_file(model):
    found, whole = Speaker.load(model / "outside.onnx").info, ModelFolder.read(model / "model")
    for name in ("fingerprint", "network", "features", "scoring", "calibration", "evidence", "training", "figures"):
        assert getattr(found, name) == getattr(whole, name), name
    np.testing.assert_array_equal(found.cohort, whole.cohort)
    np.testing.assert_array_equal(found.mean, whole.mean)
    assert not found.weights


@pytest.mark.parametrize("half", [True, False])
def test_the_cohort_has_as_many_bits_as_in_the_folder(tmp_path, half):
    folder = ModelFolder.read(write_model(tmp_path / "model", half=half))
    found = ModelFolder.in_metadata(tmp_path / "a.onnx", folder.metadata())
    np.testing.assert_array_equal(found.cohort, folder.cohort)
    assert len(folder.metadata()[COHORT]) < (2200 if half else 4000)
    assert half or len(folder.metadata()[COHORT]) > 2200


def test_a_model_without_a_cohort(tmp_path):
    folder = dataclasses.replace(ModelFolder.read(write_model(tmp_path / "model")), mean=None, cohort=None)
    assert list(folder.metadata()) == [DESCRIPTION]
    found = ModelFolder.in_metadata(tmp_path / "a.onnx", folder.metadata())
    assert found.cohort is None and found.mean is None


def test_each_comes_out_as_it_would_alone(model):
    network = OnnxNetwork(model / "outside.onnx")
    waveforms = [recording(0), recording(1, 0.5)]
    together = network.embed(waveforms)
    assert together.dtype == np.float32 and together.shape == (2, DIM)
    np.testing.assert_array_equal(together[1:], network.embed(waveforms[1:]))
    assert network.embed([]).shape == (0, DIM)


def test_too_short(model):
    network = OnnxNetwork(model / "outside.onnx")
    network.embed([np.ones(1680, np.float32)])
    with pytest.raises(RecipeError, match=r"1679 samples has fewer than the 9 frames .* at least 1680 samples"):
        network.embed([np.ones(1679, np.float32)])


def test_no_torch(model, tmp_path):
    for seed in (0, 1):
        write_wav(tmp_path / f"{seed}.wav", recording(seed), RATE)
    code = (
        "import sys\n"
        "for name in ('torch', 'torchaudio', 'av', 'pyroomacoustics', 'lmdb', 'onnx'): sys.modules[name] = None\n"
        "from wespeaker_qm import Speaker\n"
        "model = Speaker.load(sys.argv[1])\n"
        "print(model.verify(sys.argv[2], sys.argv[3]).score)\n"
        "print(model.embed(sys.argv[2]).tolist())\n"
    )
    for features in ("outside", "inside"):
        arguments = [str(model / f"{features}.onnx"), str(tmp_path / "0.wav"), str(tmp_path / "1.wav")]
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert len(result.stdout.splitlines()) == 2


def test_commands_take_an_onnx_file_and_import_no_torch(model, tmp_path):
    for seed in (0, 1):
        write_wav(tmp_path / f"{seed}.wav", recording(seed), RATE)
    code = (
        "import sys\nfrom wespeaker_qm.bin.main import main\nstatus = main(sys.argv[1:])\n"
        "loaded = {'torch', 'onnx', 'scipy.stats', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "print(f'{status} {sorted(loaded)}')"
    )
    model_option = ["--model", str(model / "outside.onnx")]
    files = [str(tmp_path / "0.wav"), str(tmp_path / "1.wav")]
    for command in (["verify", *model_option, *files], ["embed", *model_option, files[0], "--out", "a.npz"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        status, loaded = result.stdout.splitlines()[-1].split(maxsplit=1)
        assert status in "012" and loaded == "[]", result.stdout + result.stderr
    assert np.load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "no ONNX graph"), (b"hello " * 40, "no ONNX graph")],
    ids=["absent", "empty", "text"],
)
def test_no_graph(tmp_path, content, message):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"a\.onnx: {message}.*stage 8|a\.onnx: {message}.*export the model again"):
        Speaker.load(path)


def changed(source, path, **metadata):
    """A copy with other metadata; None takes an entry out."""
    model = onnx.load(source)
    entries = {each.key: each.value for each in model.metadata_props} | metadata
    onnx.helper.set_model_props(model, {key: value for key, value in entries.items() if value is not None})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"min_frames": None}, "its metadata have no min_frames, expected a file of wespeaker-qm export"),
        ({"sample_rate": "16 kHz"}, "its metadata are damaged"),
        ({DESCRIPTION: None}, r"found no model\.json there"),
        ({COHORT: None}, r"cohort\.safetensors: it is missing"),
        ({COHORT: "????"}, r"cohort\.safetensors: .*damaged"),
        ({COHORT: "AAAA"}, r"cohort\.safetensors: found 3 bytes"),
        ({DESCRIPTION: "{}"}, "found format"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_damaged_metadata(model, tmp_path, entries, message):
    with pytest.raises(RecipeError, match=message):
        Speaker.load(changed(model / "outside.onnx", tmp_path / "a.onnx", **entries))


def test_devices(model):
    with pytest.raises(RecipeError, match="device: found 'tpu', expected auto, cpu or cuda"):
        OnnxNetwork(model / "outside.onnx", "tpu")
    assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), "the other case then needs a test"
    with pytest.raises(RecipeError, match=r"device: found cuda, but onnxruntime .* has no CUDA here"):
        OnnxNetwork(model / "outside.onnx", "cuda")


def test_onnxruntime_is_not_installed(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RecipeError, match=re.escape(f"not installed: {installation('onnx')}")):
        OnnxNetwork(model / "outside.onnx")


def test_threads(model, monkeypatch):
    def threads(**arguments):
        network = OnnxNetwork(model / "outside.onnx", **arguments)
        return network._session.get_session_options().intra_op_num_threads

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (threads(), threads(num_threads=2)) == (3, 2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() == 0  # as many as there are cores


def test_int8(model, tmp_path):
    calibration = [recording(seed) for seed in range(4)]
    write_int8_model(model / "outside.onnx", tmp_path / "int8.onnx", calibration)
    small, whole = Speaker.load(tmp_path / "int8.onnx"), Speaker.load(model / "outside.onnx")
    assert small.fingerprint != whole.fingerprint
    assert small.info.scoring == whole.info.scoring
    weights = {each.name: each for each in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    quantised = [each for each in weights.values() if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 4]
    assert len(quantised) == 20  # convolutions
    waveform = recording(7)
    one, other = small.embed(waveform, sample_rate=RATE), whole.embed(waveform, sample_rate=RATE)
    assert 0.99 < one @ other / np.linalg.norm(one) / np.linalg.norm(other) < 1 - 1e-7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx"]


def test_int8_needs_recordings_and_features_outside(model, tmp_path):
    with pytest.raises(RecipeError, match=r"outside\.onnx: no recordings"):
        write_int8_model(model / "outside.onnx", tmp_path / "int8.onnx", [])
    with pytest.raises(RecipeError, match="computes features in its graph, expected a file without"):
        write_int8_model(model / "inside.onnx", tmp_path / "int8.onnx", [recording(0)])
    assert not list(tmp_path.iterdir())

"""Graphs against PyTorch; sherpa-onnx and what WeSpeaker's infer_onnx.py does, on them as they are."""

import numpy as np
import onnx
import onnxruntime
import pytest
import sherpa_onnx
import torch
import torchaudio.compliance.kaldi as kaldi

from wespeaker_qm.audio.fbank import Fbank, normalise_mean
from wespeaker_qm.audio.mel import mel_filters
from wespeaker_qm.embed.extract import NetworkEmbedder
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.network.onnx_graph import OPSET, merging_matrix, spectrum_and_filters, write_onnx

RATE = 16000


def voice(num_samples, pitch_hz=117.0, seed=0):
    """A buzz whose resonances move, pauses, and noise: what a network hears of a voice."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / RATE
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.1 * np.sin(3 * time_s))) / RATE
    centre_hz = 900 + 500 * np.sin(2 * np.pi * 1.7 * time_s)
    harmonics = (
        np.sin(k * phase) / (0.3 + ((k * pitch_hz - centre_hz) / 600) ** 2) / (1 + k * pitch_hz / 1500)
        for k in range(1, int(7500 / pitch_hz))
    )
    loudness = np.clip(0.6 + np.sin(2 * np.pi * 2.3 * time_s), 0.02, None)
    return (0.02 * loudness * sum(harmonics) + 0.002 * rng.standard_normal(num_samples)).astype(np.float32)


def network(num_mel_bins, embed_dim=16):
    """A small ResNet whose batch norms have something to fold."""
    torch.manual_seed(1)
    encoder = ResNet((1, 1, 1, 1), feat_dim=num_mel_bins, embed_dim=embed_dim, m_channels=8)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return encoder.eval()


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture(scope="module", params=[80, 40, 24])
def exported(request, tmp_path_factory):
    """Number of bins, PyTorch's embedder, and the two files."""
    encoder, fbank = network(request.param), Fbank(RATE, request.param)
    folder = tmp_path_factory.mktemp("onnx")
    for features in ("outside", "inside"):
        write_onnx(folder / f"{features}.onnx", encoder, fbank, features=features, metadata={"of": "tests"})
    return request.param, NetworkEmbedder(encoder, fbank, torch.device("cpu")), folder


@pytest.mark.parametrize("duration_s", [1, 10, 300])
def test_equals_pytorch_at_any_length(exported, duration_s):
    num_mel_bins, embed, folder = exported
    if duration_s == 300 and num_mel_bins != 24:
        return  # long enough once
    waveform = np.tile(voice(10 * RATE), 30)[: duration_s * RATE]
    expected = embed([waveform])
    feats = normalise_mean(Fbank(RATE, num_mel_bins)(torch.from_numpy(waveform)[None])).numpy()
    outside = session(folder / "outside.onnx").run(["embs"], {"feats": feats})[0]
    inputs = {"waveforms": waveform[None], "num_samples": np.array([len(waveform)])}
    inside = session(folder / "inside.onnx").run(["embs"], inputs)[0]
    np.testing.assert_allclose(outside, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(inside, expected, rtol=0, atol=1e-4)
    assert np.abs(expected).max() > 0.05


def test_batches_of_features(exported):
    num_mel_bins, embed, folder = exported
    feats = torch.randn(3, 57, num_mel_bins)
    with torch.inference_mode():
        expected = embed.encoder(feats).numpy()
    found = session(folder / "outside.onnx").run(["embs"], {"feats": feats.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_padding_changes_nothing_whatever_it_is(exported):
    _, embed, folder = exported
    lengths = np.array([9000, 2000, 16000, 1680])
    waveforms = [voice(length, seed=length) + np.float32(0.1) for length in lengths]
    padded = np.full((4, 16000), 0.7, np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    found = session(folder / "inside.onnx").run(["embs"], {"waveforms": padded, "num_samples": lengths})[0]
    np.testing.assert_allclose(found, embed(waveforms), rtol=0, atol=1e-4)


def test_sherpa_onnx_takes_it_as_it_is(exported):
    """Its features differ from ours: window, highest frequency, frames at the ends; for other bins than 80 more."""
    _, embed, folder = exported
    config = sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=str(folder / "outside.onnx"), num_threads=1)
    assert config.validate()
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(config)
    assert extractor.dim == 16
    for seed in range(3):
        waveform = voice(3 * RATE, pitch_hz=100 + 40 * seed, seed=seed)
        stream = extractor.create_stream()
        stream.accept_waveform(RATE, waveform)
        stream.input_finished()
        assert extractor.is_ready(stream)
        assert cosine(np.array(extractor.compute(stream)), embed([waveform])[0]) > 0.99


def test_wespeakers_infer_onnx_takes_it_as_it_is(exported):
    """What the program computes, restated: 80 bins whatever the network, the mean removed, feats -> embs."""
    num_mel_bins, embed, folder = exported
    waveform = voice(3 * RATE)
    features = kaldi.fbank(
        torch.from_numpy(waveform)[None] * (1 << 15),
        num_mel_bins=80,
        frame_length=25,
        frame_shift=10,
        dither=0.0,
        sample_frequency=RATE,
        window_type="hamming",
        use_energy=False,
    )
    features = (features - features.mean(dim=0))[None].numpy()
    found = session(folder / "outside.onnx").run(output_names=["embs"], input_feed={"feats": features})[0]
    expected = embed([waveform])
    if num_mel_bins == 80:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    else:
        assert cosine(found[0], expected[0]) > 0.98


def test_metadata(exported):
    num_mel_bins, _, folder = exported
    found = session(folder / "outside.onnx").get_modelmeta().custom_metadata_map
    common = {"sample_rate": "16000", "num_mel_bins": str(num_mel_bins), "frame_length": "400", "frame_shift": "160"}
    common |= {"min_frames": "9", "output_dim": "16", "of": "tests"}
    for_sherpa = {"framework": "wespeaker", "language": "multilingual", "normalize_samples": "0"}
    for_sherpa |= {"feature_normalize_type": "global-mean"} if num_mel_bins == 80 else {}
    assert found == {**common, **for_sherpa, "features": "outside"}
    inside = session(folder / "inside.onnx").get_modelmeta().custom_metadata_map
    assert inside == {**common, "features": "inside"}  # sherpa-onnx would give it features


def test_frames_that_sherpa_onnx_does_not_make_are_not_promised(tmp_path):
    fbank = Fbank(RATE, 80, frame_length_ms=20)
    write_onnx(tmp_path / "a.onnx", network(80), fbank, features="outside", metadata={})
    assert "framework" not in session(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map


def test_operators_are_those_of_onnx_and_nothing_of_this_machine_is_in_the_file(exported):
    _, _, folder = exported
    for features in ("outside", "inside"):
        model = onnx.load(folder / f"{features}.onnx")
        assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
        assert not any(node.doc_string for node in model.graph.node)
        assert b"site-packages" not in (folder / f"{features}.onnx").read_bytes()


def test_the_same_network_makes_the_same_file(exported, tmp_path):
    num_mel_bins, _, folder = exported
    encoder, fbank = network(num_mel_bins), Fbank(RATE, num_mel_bins)
    write_onnx(tmp_path / "again.onnx", encoder, fbank, features="outside", metadata={"of": "tests"})
    assert (tmp_path / "again.onnx").read_bytes() == (folder / "outside.onnx").read_bytes()


class Recurrent(SpeakerEncoder):
    """A network of another kind: no batch norm, no masks."""

    min_frames = 2
    masks_padding = False

    def __init__(self):
        super().__init__()
        self.embed_dim = 5
        self.first = torch.nn.Conv1d(24, 6, 3, padding=1)
        self.attention = torch.nn.Linear(6, 1)
        self.last = torch.nn.Linear(6, 5)

    def forward(self, features, num_frames=None):
        assert num_frames is None
        hidden = torch.tanh(self.first(features.transpose(1, 2))).transpose(1, 2)
        return self.last((hidden * self.attention(hidden).softmax(dim=1)).sum(dim=1))


def test_a_network_that_masks_nothing_takes_rows_of_one_length(tmp_path):
    torch.manual_seed(0)
    encoder, fbank = Recurrent().eval(), Fbank(RATE, 24)
    embed = NetworkEmbedder(encoder, fbank, torch.device("cpu"))
    write_onnx(tmp_path / "a.onnx", encoder, fbank, features="inside", metadata={})
    run = session(tmp_path / "a.onnx")
    assert [each.name for each in run.get_inputs()] == ["waveforms"]
    waveforms = np.stack([voice(5000, seed=seed) for seed in range(3)])
    np.testing.assert_allclose(run.run(None, {"waveforms": waveforms})[0], embed(list(waveforms)), rtol=0, atol=1e-5)
    write_onnx(tmp_path / "b.onnx", encoder, fbank, features="outside", metadata={})
    feats = normalise_mean(fbank(torch.from_numpy(waveforms))).numpy()
    found = session(tmp_path / "b.onnx").run(None, {"feats": feats})[0]
    np.testing.assert_allclose(found, embed(list(waveforms)), rtol=0, atol=1e-5)


def test_a_network_in_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match="training mode"):
        write_onnx(tmp_path / "a.onnx", network(80).train(), Fbank(), features="outside", metadata={})
    assert not list(tmp_path.iterdir())


def test_the_spectrum_of_a_frame_is_a_product():
    fbank = Fbank(RATE, 40)
    spectrum, filters = spectrum_and_filters(fbank)
    waveform = voice(400).astype(np.float64) + 0.3
    real, imaginary = np.split(spectrum @ waveform, 2)
    energies = filters @ (real**2 + imaginary**2)
    expected = fbank(torch.from_numpy(waveform).float()[None])[0, 0].numpy()
    np.testing.assert_allclose(np.log(energies), expected, rtol=0, atol=1e-4)


def test_merged_bins_come_near_the_networks_own():
    fbank = Fbank(RATE, 40)
    merging = merging_matrix(fbank)
    assert merging.shape == (80, 40)
    assert (merging >= 0).all()
    given, wanted = mel_filters(RATE, 512, 80, 7600), mel_filters(RATE, 512, 40)
    error = np.linalg.norm(merging.T @ given - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert error[:-1].max() < 0.12
    assert error[-1] < 0.7  # nothing of what is above 7,600 Hz is left


@pytest.mark.parametrize("duration_s", [0.3, 1, 4.21, 30])
def test_embeddings_averaged_over_windows(tmp_path, duration_s):
    torch.manual_seed(3)
    encoder = ResNet((1, 1, 1, 1), feat_dim=32, embed_dim=6, m_channels=4, stem_stride=2, window=60).eval()
    fbank = Fbank(RATE, 32)
    waveform = voice(int(duration_s * RATE))
    expected = NetworkEmbedder(encoder, fbank, torch.device("cpu"))([waveform])
    write_onnx(tmp_path / "a.onnx", encoder, fbank, features="outside", metadata={})
    write_onnx(tmp_path / "b.onnx", encoder, fbank, features="inside", metadata={})
    feats = normalise_mean(fbank(torch.from_numpy(waveform)[None])).numpy()
    np.testing.assert_allclose(session(tmp_path / "a.onnx").run(None, {"feats": feats})[0], expected, rtol=0, atol=1e-5)
    found = session(tmp_path / "b.onnx").run(None, {"waveforms": waveform[None]})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)

"""ResNet-34 against WeSpeaker's numbers (oracles_data/resnet34.npz, resnet34_keys.txt)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.models.resnet import ResNet

ORACLES = Path(__file__).parents[1] / "oracles_data"


def formula_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights by the formula that the oracle was computed with (entry n in state_dict order, element i)."""
    state = {}
    for n, (name, value) in enumerate(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            state[name] = value
            continue
        i = np.arange(value.numel(), dtype=np.float64)
        u = 43758.5453 * np.sin(12.9898 * i + 78.233 * n)
        f = u - np.trunc(u)
        z = 2 * f - np.sign(f)
        if name.endswith("running_var"):
            z = 1 + np.abs(z) / 2
        elif name.endswith(("running_mean", "bias")):
            z = z / 10
        elif value.ndim == 1:
            z = 1 + z / 5
        else:
            z = z * math.sqrt(3 / (value.numel() / value.shape[0]))
        state[name] = torch.from_numpy(z).to(value.dtype).view(value.shape)
    return state


@pytest.fixture(scope="module")
def resnet34() -> ResNet:
    model = ResNet((3, 4, 6, 3), feat_dim=80, embed_dim=256)
    model.load_state_dict(formula_state(model))
    return model.eval()


def test_names_shapes_and_size_are_wespeakers(resnet34: ResNet) -> None:
    rows = [line.split("\t") for line in (ORACLES / "resnet34_keys.txt").read_text().splitlines() if "\t" in line]
    expected = [(name, shape, kind) for name, shape, kind in rows]
    found = [(name, str(tuple(value.shape)), str(value.dtype)) for name, value in resnet34.state_dict().items()]
    assert len(found) == 218
    assert found == expected[:-1]
    assert expected[-1][0] == "projection.weight"  # the head's, which the trainer adds under that name
    assert sum(parameter.numel() for parameter in resnet34.parameters()) == 6_634_336


@pytest.mark.parametrize("num_frames", [200, 97])
def test_embedding_equals_wespeakers(resnet34: ResNet, num_frames: int) -> None:
    oracle = np.load(ORACLES / "resnet34.npz")
    features = torch.from_numpy(oracle["feat"][None, :num_frames])
    with torch.inference_mode():
        embedding = resnet34(features)[0].numpy()
    np.testing.assert_allclose(embedding, oracle[f"embed_{num_frames}"], atol=1e-5)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = ResNet((3, 4, 6, 3), feat_dim=16, embed_dim=8, m_channels=4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
    model.eval()
    lengths = [9, 10, 31, 40, 64]
    features = torch.randn(len(lengths), 71, 16)
    with torch.inference_mode():
        together = model(features, torch.tensor(lengths))
        alone = torch.cat([model(features[i : i + 1, :length]) for i, length in enumerate(lengths)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("feat_dim", "stem_stride"), [(81, 1), (12, 1), (24, 2)])
def test_feature_dimension_must_divide_by_what_the_network_makes_one_bin_of(feat_dim: int, stem_stride: int) -> None:
    with pytest.raises(ValueError, match=f"feat_dim is {feat_dim}, expected a multiple of {8 * stem_stride}"):
        ResNet((1, 1, 1, 1), feat_dim=feat_dim, embed_dim=8, stem_stride=stem_stride)


def with_norms(model: ResNet) -> ResNet:
    """In float64 and evaluation mode, with batch norms that are not those of a new network."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
    return model.double().eval()


@pytest.mark.parametrize("num_frames", [17, 18, 32, 33, 100])
def test_a_stem_of_stride_two_keeps_every_other_of_its_maps(num_frames: int) -> None:
    """Against a stem of stride 1 whose maps are thinned out, with and without padding."""
    model = with_norms(ResNet((1, 1, 1, 1), feat_dim=32, embed_dim=8, m_channels=4, stem_stride=2))
    features = torch.randn(2, num_frames, 32, dtype=torch.float64)
    with torch.inference_mode():
        dense = torch.nn.functional.conv2d(features.transpose(1, 2).unsqueeze(1), model.conv1.weight, padding=1)
        maps = torch.relu(model.bn1(dense[..., ::2, ::2]))
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            maps = stage[0](maps, None)
        expected = model.seg_1(torch.cat([maps.mean(-1).flatten(1), (maps.var(-1) + 1e-7).sqrt().flatten(1)], dim=1))
        torch.testing.assert_close(model(features), expected, atol=1e-12, rtol=1e-12)
        padded = torch.nn.functional.pad(features, (0, 0, 0, 23), value=3.0)
        found = model(padded, torch.tensor([num_frames, num_frames]))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert (model.min_frames, model.time_reduction) == (17, 16)


@pytest.mark.parametrize("num_frames", [17, 39, 40, 41, 60, 61, 203])
@pytest.mark.parametrize("frames_per_piece", [1, 100, 1000])
def test_windows_are_embedded_alone_and_averaged(num_frames: int, frames_per_piece: int) -> None:
    torch.manual_seed(num_frames)
    windowed = with_norms(ResNet((1, 1, 1, 1), feat_dim=16, embed_dim=8, m_channels=4, stem_stride=2, window=40))
    plain = ResNet((1, 1, 1, 1), feat_dim=16, embed_dim=8, m_channels=4, stem_stride=2).double()
    plain.load_state_dict(windowed.state_dict())
    plain.eval()
    features = torch.randn(2, num_frames, 16, dtype=torch.float64).cumsum(dim=1)
    num_windows = 1 if num_frames <= 40 else 1 + math.ceil((num_frames - 40) / 20)
    with torch.inference_mode():
        for row, found in zip(features, windowed(features), strict=True):
            unit = []
            for index in range(num_windows):
                first = index * max(0, num_frames - 40) // max(1, num_windows - 1)
                piece = row[first : first + 40]
                embedding = plain((piece - piece.mean(dim=0))[None])[0]
                unit.append(embedding / embedding.norm())
            expected = sum(unit) / num_windows
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
            pieces = windowed.embed_long(lambda a, b, row=row: row[a:b], num_frames, frames_per_piece)
            torch.testing.assert_close(pieces, expected, atol=1e-10, rtol=1e-10)


def test_in_training_a_chunk_is_embedded_as_one() -> None:
    torch.manual_seed(0)
    models = [ResNet((1, 1, 1, 1), feat_dim=8, embed_dim=4, m_channels=2, window=window) for window in (None, 20)]
    models[1].load_state_dict(models[0].state_dict())
    features = torch.randn(3, 64, 8)
    assert torch.equal(models[0].train()(features), models[1].train()(features))
    assert (models[0].masks_padding, models[1].masks_padding) == (True, False)


@pytest.mark.parametrize(("num_blocks", "context"), [((2, 2, 2, 2), 54), ((3, 4, 6, 3), 112)])
def test_a_map_sees_just_the_frames_that_the_class_says(num_blocks: tuple[int, int, int, int], context: int) -> None:
    model = ResNet(num_blocks, feat_dim=8, embed_dim=4, m_channels=2).double().eval()
    assert (model.context, model.time_reduction) == (context, 8)
    features = torch.randn(1, 321, 8, dtype=torch.float64, requires_grad=True)
    maps, _ = model.frame_maps(features)
    assert maps.shape[-1] == 41
    (gradient,) = torch.autograd.grad(maps[..., 20].square().sum(), features)
    seen = gradient[0].any(dim=-1).nonzero()[:, 0]
    assert 160 - context <= seen.min() and seen.max() <= 160 + context


@pytest.mark.parametrize("num_frames", [9, 160, 161, 327, 328])
@pytest.mark.parametrize("frames_per_piece", [1, 8, 80, 163, 400])
def test_pieces_of_any_size_give_the_embedding_of_the_whole(num_frames: int, frames_per_piece: int) -> None:
    model = ResNet((2, 2, 2, 2), feat_dim=8, embed_dim=4, m_channels=2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
    model.double().eval()
    features = torch.randn(num_frames, 8, dtype=torch.float64)
    with torch.inference_mode():
        pieces = model.embed_long(lambda first, end: features[first:end], num_frames, frames_per_piece)
        torch.testing.assert_close(pieces, model(features[None])[0], atol=1e-12, rtol=1e-12)
        model.context -= 8  # a piece that ends where a map still sees on
        pieces = model.embed_long(lambda first, end: features[first:end], num_frames, frames_per_piece)
    if frames_per_piece < num_frames - 8:
        assert not torch.allclose(pieces, model(features[None])[0], atol=1e-12, rtol=1e-12)

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


def test_feature_dimension_must_divide_by_eight() -> None:
    with pytest.raises(ValueError, match="feat_dim is 81"):
        ResNet((1, 1, 1, 1), feat_dim=81, embed_dim=8)


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

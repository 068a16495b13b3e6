"""Every network that a configuration may name is what its class says of it."""

import pytest
import torch

from wespeaker_qm.config import Config
from wespeaker_qm.config.model import MODELS
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.network.build import ENCODERS, build_encoder, encoder_named

every_network = pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in ENCODERS), ("ResNet10", {"stem_stride": 2}), ("ResNet10", {"window": 24})],
)


def trained(name: str, options: dict[str, int]) -> SpeakerEncoder:
    """A small network in evaluation mode, whose batch norms are not those of a new one."""
    encoder = build_encoder(Config(model=name, model_args=MODELS[name](embed_dim=8, **options)))
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            for values in (module.bias.data, module.running_mean):
                values.normal_()
    return encoder.eval()


def test_names_have_arguments_and_the_other_way_round() -> None:
    assert ENCODERS.keys() == MODELS.keys()


@every_network
@torch.inference_mode()
def test_the_fewest_frames_that_it_names_can_be_embedded(name: str, options: dict[str, int]) -> None:
    encoder = trained(name, options)
    embedding = encoder(torch.randn(2, encoder.min_frames, 80))
    assert embedding.shape == (2, encoder.embed_dim) == (2, 8)
    assert embedding.isfinite().all()


@every_network
@torch.inference_mode()
def test_padding_that_it_masks_changes_nothing(name: str, options: dict[str, int]) -> None:
    encoder = trained(name, options)
    lengths = [encoder.min_frames, 40, 31] if encoder.masks_padding else [40] * 3
    features = torch.randn(3, 40, 80)
    together = encoder(features, torch.tensor(lengths) if encoder.masks_padding else None)
    alone = torch.cat([encoder(features[row : row + 1, :length]) for row, length in enumerate(lengths)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@every_network
@torch.inference_mode()
def test_folded_it_gives_the_same_embeddings(name: str, options: dict[str, int]) -> None:
    encoder = trained(name, options)
    features = torch.randn(2, 50, 80)
    torch.testing.assert_close(encoder.folded()(features), encoder(features), atol=1e-3, rtol=1e-3)


@every_network
@pytest.mark.parametrize(("num_frames", "frames_per_piece"), [(401, 400), (130, 64)])
@torch.inference_mode()
def test_in_pieces_it_gives_the_same_embedding(
    name: str, options: dict[str, int], num_frames: int, frames_per_piece: int
) -> None:
    encoder = trained(name, options)
    features = torch.randn(num_frames, 80)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model, given = encoder.to(dtype), features.to(dtype)
        whole = model(given[None])[0]
        pieces = model.embed_long(lambda first, end, given=given: given[first:end], num_frames, frames_per_piece)
        torch.testing.assert_close(pieces, whole, atol=tolerance * whole.abs().max().item(), rtol=tolerance)


@pytest.mark.parametrize(
    ("name", "num_blocks"), [("ResNet10", (1, 1, 1, 1)), ("ResNet18", (2, 2, 2, 2)), ("ResNet34", (3, 4, 6, 3))]
)
def test_resnets_have_the_blocks_of_their_names(name: str, num_blocks: tuple[int, ...]) -> None:
    encoder = build_encoder(Config(model=name))
    assert tuple(len(encoder.get_submodule(f"layer{stage}")) for stage in range(1, 5)) == num_blocks
    assert sum(num_blocks) * 2 + 2 == int(name.removeprefix("ResNet"))  # convolutions, the stem and the linear layer


def test_sizes_that_a_finished_model_does_not_name_are_at_their_default() -> None:
    """A model of a version that did not know them."""
    sizes = {"feat_dim": 16, "embed_dim": 4, "m_channels": 2}
    older = encoder_named("ResNet18", {**sizes, "pooling_func": "TSTP"}, "model.json").eval()
    newer = encoder_named("ResNet18", {**sizes, "stem_stride": 1, "window": None}, "model.json").eval()
    newer.load_state_dict(older.state_dict())
    features = torch.randn(2, 60, 16)
    assert torch.equal(older(features), newer(features))
    other = encoder_named("ResNet18", {**sizes, "stem_stride": 2, "window": 40}, "model.json")
    assert (older.min_frames, other.min_frames, other.masks_padding) == (9, 17, False)

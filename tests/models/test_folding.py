"""Folded batch norm: the same embeddings."""

import pytest
import torch

from wespeaker_qm.models.resnet import ResNet


def trained_network() -> ResNet:
    """Whose batch norms are not those of a new one."""
    network = ResNet((2, 1, 1, 1), feat_dim=16, embed_dim=8, m_channels=4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 2.0)
            for values in (module.bias.data, module.running_mean):
                values.normal_()
    return network.eval()


@pytest.mark.parametrize("num_frames", [None, [20, 31, 40]])
def test_embeddings_are_those_of_the_network(num_frames: list[int] | None) -> None:
    network = trained_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    features = torch.randn(3, 40, 16)
    lengths = None if num_frames is None else torch.tensor(num_frames)
    lean = network.folded()
    with torch.inference_mode():
        torch.testing.assert_close(lean(features, lengths), network(features, lengths), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in lean.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="expected evaluation mode"):
        trained_network().train().folded()

"""The encoder beside its head, under the names that checkpoints have."""

import pytest
import torch

from wespeaker_qm.config import Config
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.train.build import build_head, build_model
from wespeaker_qm.train.distributed import ALONE
from wespeaker_qm.train.model import EncoderWithHead


def test_an_encoder_must_leave_the_heads_name_to_the_head(tiny_config: Config) -> None:
    encoder = build_encoder(tiny_config)
    encoder.add_module("projection", torch.nn.Linear(8, 8))
    with pytest.raises(ValueError, match="encoder has a part called projection"):
        EncoderWithHead(encoder, build_head(tiny_config, ClassPartition(5)), None)


def test_a_checkpoint_is_what_an_encoder_that_holds_its_head_would_give(tiny_config: Config) -> None:
    """As WeSpeaker's does, and this project's did: names, their order, and the versions of modules beside them."""
    encoder = build_encoder(tiny_config)
    model = EncoderWithHead(encoder, build_head(tiny_config, ClassPartition(5)), None)
    state = model.checkpoint_state()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    order = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    encoder.add_module("projection", model.projection)
    expected = encoder.state_dict()
    assert list(state) == list(expected)
    assert state._metadata == expected._metadata  # type: ignore[attr-defined]
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert order == [id(parameter) for parameter in encoder.parameters()]


def test_what_a_checkpoint_holds_loads_into_another_model(tiny_config: Config) -> None:
    torch.manual_seed(1)
    one, other = (build_model(tiny_config, 5, ALONE) for _ in range(2))
    state = one.checkpoint_state()
    other.load_checkpoint_state(state)
    assert all(torch.equal(value, state[name]) for name, value in other.checkpoint_state().items())
    del state["projection.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_checkpoint_state(state)


def test_rows_of_classes_are_those_of_the_prototypes_and_their_momentum(tiny_config: Config) -> None:
    model = build_model(tiny_config, 5, ALONE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 20, 16), torch.arange(4), 0.1).loss.mean().backward()
    optimizer.step()
    state, saved = model.checkpoint_state(), optimizer.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    momenta = {index: value["momentum_buffer"].clone() for index, value in saved["state"].items()}
    model.change_class_rows(state, saved, lambda rows: rows[:2])
    prototypes = len(momenta) - 1  # after the encoder's parameters
    for name, value in state.items():
        assert torch.equal(value, before[name][:2] if name == "projection.weight" else before[name]), name
    for index, value in saved["state"].items():
        expected = momenta[index][:2] if index == prototypes else momenta[index]
        assert torch.equal(value["momentum_buffer"], expected), index
    # The optimiser goes on with its own.
    assert optimizer.state[model.projection.weight]["momentum_buffer"].shape == (5, 8)

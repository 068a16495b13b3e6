"""Parts of a training as they are built."""

import pytest
import torch
from torch import nn

from wespeaker_qm.config import Config
from wespeaker_qm.train import build


def test_a_fused_optimiser_goes_on_from_the_state_of_another(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other way round; a state says how the optimiser that saved it computed."""
    built = {}
    for name, fewest in (("plain", {}), ("fused", {"cpu": 0})):
        monkeypatch.setattr(build, "_FUSED_FROM", fewest)
        parameter = nn.Parameter(torch.linspace(-1, 1, 8))
        built[name] = parameter, build.build_optimizer(tiny_config, [parameter])
    for _ in range(3):
        for parameter, optimizer in built.values():
            parameter.grad = torch.cos(parameter.detach())
            optimizer.step()
    (plain, plain_optimizer), (fused, fused_optimizer) = built.values()
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-7)
    states = plain_optimizer.state_dict(), fused_optimizer.state_dict()
    fused_optimizer.load_state_dict(states[0])
    plain_optimizer.load_state_dict(states[1])
    assert [optimizer.param_groups[0]["fused"] for _, optimizer in built.values()] == [None, True]


def test_a_first_step_that_is_skipped_leaves_no_momentum(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_FUSED_FROM", {"cpu": 0})
    parameter = nn.Parameter(torch.ones(1000))
    optimizer = build.build_optimizer(tiny_config, [parameter])
    parameter.grad = torch.full((1000,), torch.inf)
    optimizer.found_inf = torch.tensor([1.0])  # type: ignore[attr-defined]
    optimizer.step()
    assert (parameter == 1).all()
    assert not optimizer.state[parameter]["momentum_buffer"].any()


@pytest.mark.parametrize(("num_classes", "fused"), [(2**16 - 1, None), (2**16, True)])
def test_many_prototypes_have_a_fused_optimiser_on_a_cpu_too(
    tiny_config: Config, num_classes: int, fused: bool | None
) -> None:
    parameters = [nn.Parameter(torch.empty(3)), nn.Parameter(torch.empty(num_classes, 256))]
    assert build.build_optimizer(tiny_config, parameters).param_groups[0]["fused"] is fused

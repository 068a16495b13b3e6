"""The step of a GPU makes what PyTorch's SGD makes of the gradient in float64; what it keeps is what a filter needs."""

import copy
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from wespeaker_qm.losses import AngularMarginHead, PrototypeSGD, QMarginHead, device_rows, dispatch, fused_filter
from wespeaker_qm.losses.device_rows import LOW, DeviceRows
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.losses.heads import CosineHead

# What numpy says in the interpreter; a GPU computes in silence.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|underflow):RuntimeWarning")

DIM, NUM_CLASSES, BATCH = 12, 27, 3
RECIPE = {"lr": 0.5, "momentum": 0.9, "weight_decay": 1e-2}
HYPER = {
    "momentum": RECIPE,
    "nesterov": RECIPE | {"nesterov": True},
    "without momentum": RECIPE | {"momentum": 0.0},
    "without decay": RECIPE | {"weight_decay": 0.0},
}
HEADS: dict[str, tuple[type[CosineHead], float, float]] = {
    "few candidates": (QMarginHead, 1.5, 20.0),
    "angular": (AngularMarginHead, 1.75, 20.0),
    "wide rows": (QMarginHead, 1.25, 8.0),
}


def all_kernels(patch: pytest.MonkeyPatch, way: Way = Way.FUSED_FILTER) -> None:
    """All sizes and devices by one way."""
    patch.setattr(dispatch, "WAYS", dict.fromkeys(("cpu", "cuda"), ((math.inf, way),)))


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"_GROUP": 8, "PLACES": 16, "_BLOCK_CLASSES": 16, "_PAIRS": 8, "_WIDE_PROGRAMS": 2, "_PROGRAMS": 1}
    for name, size in sizes.items():
        monkeypatch.setattr(fused_filter, name, size)
    all_kernels(monkeypatch)


def made(device: torch.device, name: str = "few candidates", **hyper: Any) -> tuple[CosineHead, PrototypeSGD]:
    kind, alpha, scale = HEADS[name]
    torch.manual_seed(1)
    head = kind(DIM, NUM_CLASSES, scale=scale, alpha=alpha).to(device)
    with torch.no_grad():
        head.weight.mul_(4)
    return head, PrototypeSGD([head.weight], head, **(hyper or RECIPE), fused=True)


def batches(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Embeddings (B, D) near fixed directions of their classes, and targets."""
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(NUM_CLASSES, DIM, generator=generator)
    while True:
        target = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
        embedding = truth[target] + 0.5 * torch.randn(BATCH, DIM, generator=generator)
        yield embedding.to(device), target.to(device)


def train(head: CosineHead, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for step, batch in zip(range(last), batches(head.weight.device), strict=False):
        if step >= first:
            optimizer.zero_grad()
            loss = head(*batch, 0.1).loss.mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


class Precise:
    """All logits and PyTorch's SGD, in float64 on the CPU."""

    def __init__(self, head: CosineHead, hyper: dict[str, Any]) -> None:
        self.head = copy.deepcopy(head).cpu().double()
        self.optimizer = torch.optim.SGD([self.head.weight], **hyper)

    def backward(self, embedding: Tensor, target: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            all_kernels(patch, Way.DENSE)
            self.optimizer.zero_grad()
            self.head(embedding.cpu().double(), target.cpu(), 0.1).loss.mean().backward()
        return self.head.weight.grad.norm()


def test_without_momentum_momenta_stay_for_when_it_is_switched_on(device: torch.device) -> None:
    head, optimizer = made(device)
    plain = copy.deepcopy(head)
    plain_optimizer = torch.optim.SGD([plain.weight], **RECIPE)
    for momentum, batch in zip((0.9, 0.0, 0.9), batches(device), strict=False):
        for each, each_optimizer in ((head, optimizer), (plain, plain_optimizer)):
            each_optimizer.param_groups[0]["momentum"] = momentum
            each_optimizer.zero_grad()
            each(*batch, 0.1).loss.mean().backward()
            each_optimizer.step()
    torch.testing.assert_close(head.weight, plain.weight)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [*(("few candidates", hyper) for hyper in HYPER), ("angular", "nesterov"), ("wide rows", "momentum")],
)
def test_steps_are_those_of_sgd(name: str, hyper: str, device: torch.device) -> None:
    head, optimizer = made(device, name, **HYPER[hyper])
    precise = Precise(head, HYPER[hyper])
    widest = 0.0
    for step, batch in zip(range(3), batches(device), strict=False):
        for each in (optimizer, precise.optimizer):
            each.param_groups[0]["lr"] = 0.5 * 0.7**step
        output = head(*batch, 0.1)
        output.loss.mean().backward()
        widest = max(widest, float(output.sparsity.candidates.max()))
        assert head.weight.grad is None  # it is written nowhere
        norm = precise.backward(*batch)
        torch.testing.assert_close(head.gradient_norm().cpu().double(), norm, rtol=1e-5, atol=1e-6)
        optimizer.step()
        precise.optimizer.step()
        momenta = optimizer.state[head.weight]["momentum_buffer"]
        torch.testing.assert_close(head.weight.cpu().double(), precise.head.weight.detach(), rtol=1e-5, atol=1e-5)
        if RECIPE["momentum"] == HYPER[hyper]["momentum"]:
            expected = precise.optimizer.state[precise.head.weight]["momentum_buffer"]
            torch.testing.assert_close(momenta.cpu().double(), expected, rtol=1e-5, atol=1e-5)
        assert head.gradient_norm() is None
    assert (widest > 16) == (name == "wide rows")


def test_what_is_kept_is_what_the_next_filter_begins_with(device: torch.device) -> None:
    from wespeaker_qm.losses.kernels import launch

    head, optimizer = made(device)
    with torch.no_grad():
        head.weight[3] = 0
        head.weight[5] *= 1e-30
    train(head, optimizer, 0, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_rows, "unit_rows", None)  # or they would be read again
        low, inverse_norms = (each.clone() for each in head.kept.unit_rows(head.weight.data))
    optimizer.catch_up()
    # To the bit: it must not show in a training when it was saved.
    assert all(
        torch.equal(*pair) for pair in zip(head.kept.unit_rows(head.weight.data), (low, inverse_norms), strict=True)
    )
    expected_low, expected = launch.unit_vectors(head.weight.data, LOW)
    # Sums of float64 in another order.
    torch.testing.assert_close(inverse_norms, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(low, expected_low, rtol=2**-10, atol=0)


def test_a_step_starts_one_kernel_and_waits_for_nothing(noted: Any, device: torch.device) -> None:
    head, optimizer = made(device)
    train(head, optimizer, 0, 1)
    batch = next(batches(device))
    with noted() as forward:
        loss = head(*batch, 0.1).loss.mean()
    with noted() as backward:
        loss.backward()
    with noted() as step:
        optimizer.step()
    assert "unit_prototypes" not in forward and "candidate_prototype_gradient" not in backward
    assert step.count("prototype_step") == 1, step
    assert set(step) <= {"prototype_step", "zeros", "_record_function_enter_new", "_record_function_exit"}
    assert len([*forward, *backward, *step]) <= 30


def test_where_all_is_stopped_nothing_changes_and_a_scale_is_taken_out(device: torch.device) -> None:
    head, optimizer = made(device)
    other, other_optimizer = made(device)
    train(head, optimizer, 0, 1)
    train(other, other_optimizer, 0, 1)
    before = copy.deepcopy((head.state_dict(), optimizer.state_dict()["state"]))
    batch = next(batches(device))
    head(*batch, 0.1).loss.mean().backward()
    optimizer.found_inf = torch.ones((), device=device)
    optimizer.step()
    after = (head.state_dict(), optimizer.state_dict()["state"])
    assert torch.equal(after[0]["weight"], before[0]["weight"])
    assert torch.equal(after[1][0]["momentum_buffer"], before[1][0]["momentum_buffer"])
    assert head.gradient_norm() is None
    (512 * head(*batch, 0.1).loss.mean()).backward()
    optimizer.found_inf, optimizer.grad_scale = torch.zeros((), device=device), torch.full((), 512.0, device=device)
    optimizer.step()
    other(*batch, 0.1).loss.mean().backward()
    other_optimizer.step()
    assert torch.equal(head.weight, other.weight)
    assert not torch.equal(head.weight, before[0]["weight"])


def test_a_scaler_makes_no_step_of_an_infinite_gradient(device: torch.device) -> None:
    """It looks at the gradients that autograd has: here that of the network before the head."""
    head, _ = made(device)
    encoder = torch.nn.Linear(DIM, DIM, device=device)
    optimizer = PrototypeSGD([*encoder.parameters(), head.weight], head, **RECIPE)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
    plain = copy.deepcopy(head)
    embedding, target = next(batches(device))
    for factor in (math.inf, 1.0):
        before = head.weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(factor * head(encoder(embedding), target, 0.1).loss.mean()).backward()
        if factor == 1:
            plain(encoder(embedding).detach(), target, 0.1).loss.mean().backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(head.weight, before) == (factor == math.inf)
    torch.optim.SGD([plain.weight], **RECIPE).step()
    torch.testing.assert_close(head.weight, plain.weight)  # the scale is taken out of all


def test_a_gradient_is_written_for_whoever_looks_for_it_in_the_weight(device: torch.device) -> None:
    head, _ = made(device)
    encoder = torch.nn.Linear(DIM, DIM, device=device)
    optimizer = PrototypeSGD([*encoder.parameters(), head.weight], head, **RECIPE)
    embedding, target = next(batches(device))
    before = head.weight.detach().clone()
    for writes in (False, True):
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
        scaler.scale(head(encoder(embedding), target, 0.1).loss.mean()).backward()
        if not writes:
            scaler.unscale_(optimizer)
            with pytest.raises(RuntimeError, match=r"GradScaler has not seen, .* expected write_gradient\(\)"):
                scaler.step(optimizer)
            assert torch.equal(head.weight, before)
            optimizer.zero_grad()
            del optimizer.grad_scale, optimizer.found_inf
    optimizer.write_gradient()
    optimizer.write_gradient()  # it is there
    assert not head.kept.holds_gradient
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_([head.weight], 0.01)
    assert norm > 0.02
    scaler.step(optimizer)
    expected = before - RECIPE["lr"] * (head.weight.grad + RECIPE["weight_decay"] * before)
    torch.testing.assert_close(head.gradient_norm().item(), 0.01, rtol=1e-4, atol=0)
    torch.testing.assert_close(head.weight.detach(), expected)


@pytest.mark.parametrize("between", ["a checkpoint", "a check"])
def test_what_happens_between_backward_and_step_leaves_no_old_norms(between: str, device: torch.device) -> None:
    from wespeaker_qm.losses.kernels import launch

    head, optimizer = made(device)
    batch = next(batches(device))
    loss = head(*batch, 0.1).loss.mean()
    if between == "a checkpoint":
        loss.backward()
        optimizer.state_dict()
    else:
        head.state_dict()
        with torch.inference_mode():
            head(*batch, 0.1)
        loss.backward()
    optimizer.step()
    _, inverse_norms = head.kept.unit_rows(head.weight.data)
    torch.testing.assert_close(inverse_norms, launch.unit_vectors(head.weight.data, LOW)[1], rtol=1e-14, atol=0)


def test_a_training_goes_on_after_a_check_in_inference_mode(device: torch.device) -> None:
    head, optimizer = made(device)
    with torch.inference_mode():
        head(*next(batches(device)), 0.1)
    train(head, optimizer, 0, 1)


def test_gradients_that_are_asked_for_elsewhere_are_no_gradient_of_the_prototypes(device: torch.device) -> None:
    head, _ = made(device)
    embedding, target = next(batches(device))
    loss = head(embedding.requires_grad_(), target, 0.1).loss.mean()
    (gradient,) = torch.autograd.grad(loss, embedding, retain_graph=True)
    loss.backward(inputs=[embedding], retain_graph=True)
    assert not head.kept.holds_gradient
    assert torch.equal(gradient, embedding.grad)
    loss.backward()
    once = head.kept.gradient_norm()
    assert once > 0 and head.kept.holds_one


def test_gradients_of_several_batches_are_added_up(device: torch.device) -> None:
    head, optimizer = made(device)
    precise = Precise(head, RECIPE)
    first, second = (batch for _, batch in zip(range(2), batches(device), strict=False))
    head(*first, 0.1).loss.mean().backward()
    head.weight.grad = torch.ones_like(head.weight)  # and what somebody else adds, as a regularisation would
    head(*second, 0.1).loss.mean().backward()
    precise.backward(*first)
    gradient = precise.head.weight.grad.clone() + 1
    precise.backward(*second)
    precise.head.weight.grad += gradient
    torch.testing.assert_close(head.gradient_norm().cpu().double(), precise.head.weight.grad.norm())
    for each in (optimizer, precise.optimizer):
        each.step()
    torch.testing.assert_close(head.weight.cpu().double(), precise.head.weight.detach(), rtol=1e-5, atol=1e-5)


def test_a_scaler_that_sees_no_gradient_is_told(device: torch.device) -> None:
    head, optimizer = made(device)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
    scaler.scale(head(*next(batches(device)), 0.1).loss.mean()).backward()
    with pytest.raises(RuntimeError, match=r"expected write_gradient\(\) .* or step\(\) of a head alone"):
        scaler.step(optimizer)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_first_step_may_be_of_several_gradients(is_new: bool, device: torch.device) -> None:
    """Then SGD makes it, of all parameters at once: those that have a momentum and those that have none."""
    head, _ = made(device)
    other = torch.nn.Parameter(torch.ones(2, device=device))
    optimizer = PrototypeSGD([other, head.weight], head, **RECIPE)
    if not is_new:
        optimizer.load_state_dict(torch.optim.SGD([other, head.weight], **RECIPE).state_dict())
        optimizer.state.clear()
    batch = next(batches(device))
    head(*batch, 0.1).loss.mean().backward()
    (head(*batch, 0.1).loss.mean() + other.sum()).backward()
    optimizer.found_inf = torch.ones((), device=device)
    optimizer.step()
    assert not any(optimizer.state[each]["momentum_buffer"].any() for each in (other, head.weight))


def test_a_gradient_may_be_dropped(device: torch.device) -> None:
    head, optimizer = made(device)
    head(*next(batches(device)), 0.1).loss.mean().backward()
    optimizer.zero_grad()
    before = head.weight.detach().clone()
    assert head.gradient_norm() is None
    optimizer.step()
    assert torch.equal(head.weight, before)
    embedding, target = next(batches(device))
    head.weight.requires_grad_(False)
    head(embedding.requires_grad_(), target, 0.1).loss.mean().backward()
    assert embedding.grad is not None and head.gradient_norm() is None


def test_a_training_goes_on_from_a_checkpoint_to_the_same_bits(device: torch.device) -> None:
    head, optimizer = made(device)
    train(head, optimizer, 0, 2)
    saved = copy.deepcopy((head.state_dict(), optimizer.state_dict()))
    assert list(saved[0]) == ["weight"] and list(saved[1]["state"][0]) == ["momentum_buffer"]
    losses = train(head, optimizer, 2, 4)
    other, other_optimizer = made(device)
    train(other, other_optimizer, 0, 1)  # what it did before is forgotten
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    assert train(other, other_optimizer, 2, 4) == losses
    assert torch.equal(other.weight, head.weight)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros_like(head.weight))], lr=1.0)
    plain.load_state_dict(optimizer.state_dict() | {"param_groups": plain.state_dict()["param_groups"]})
    head(*next(batches(device)), 0.1).loss.mean().backward()
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[0]["lr"] == 1 and optimizer.param_groups[0]["fused"]
    assert head.kept.holds_gradient


def test_a_compiled_head_gives_its_gradient_to_autograd(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    head, optimizer = made(device)
    other, other_optimizer = made(device)
    batch = next(batches(device))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    head(*batch, 0.1).loss.mean().backward()
    assert head.weight.grad is not None and not head.kept.holds_gradient
    monkeypatch.undo()
    fused_filter.PLACES, before = 16, fused_filter.PLACES
    try:
        all_kernels(monkeypatch)
        other(*batch, 0.1).loss.mean().backward()
    finally:
        fused_filter.PLACES = before
    optimizer.step()
    other_optimizer.step()
    torch.testing.assert_close(head.weight, other.weight)


def test_weights_that_others_change(device: torch.device) -> None:
    head, optimizer = made(device)
    train(head, optimizer, 0, 2)
    with torch.no_grad():
        head.weight.copy_(head.weight.flip(0))  # as a re-initialisation does
    batch = next(batches(device))
    plain = copy.deepcopy(head)
    assert plain.kept is None
    assert torch.equal(head(*batch, 0.1).loss, plain(*batch, 0.1).loss)
    loss = head(*batch, 0.1).loss.mean()
    loss.backward()
    with torch.no_grad():
        head.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"changed between backward\(\) and step\(\)"):
        optimizer.step()
    optimizer.zero_grad()
    head.weight.data = head.weight.data.clone()
    with pytest.raises(ValueError, match="found other prototypes than the optimiser's"):
        head(*batch, 0.1)


def test_a_loss_from_before_a_step_is_not_derived_after_it(device: torch.device) -> None:
    head, optimizer = made(device)
    late = head(*next(batches(device)), 0.1).loss.mean()
    train(head, optimizer, 0, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_an_optimiser_is_not_copied_and_a_head_is(device: torch.device) -> None:
    head, optimizer = made(device)
    train(head, optimizer, 0, 1)
    with pytest.raises(TypeError, match=r"load its state_dict\(\) into one made for the other head"):
        copy.deepcopy(optimizer)
    other = pickle.loads(pickle.dumps(head))
    assert other.kept is None and isinstance(head.kept, DeviceRows)


def test_what_it_is_not_for(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    head, optimizer = made(device)
    with pytest.raises(ValueError, match="found no prototypes of the head among the parameters"):
        PrototypeSGD(torch.nn.Linear(2, 2).parameters(), head, lr=1.0)
    another = PrototypeSGD([head.weight], head, lr=1.0)
    head(*next(batches(device)), 0.1).loss.mean().backward()
    with pytest.raises(RuntimeError, match="another optimiser has taken over"):
        optimizer.step()
    another.zero_grad()
    head.kept = None  # as is said of an optimiser of another class
    head(*next(batches(device)), 0.1).loss.mean().backward()
    assert head.weight.grad is not None

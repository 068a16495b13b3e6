"""Lazy rows are those of PyTorch's SGD, bit for bit; a head on them computes what it computes on current ones."""

import copy
import functools
import pickle

import pytest
import torch
from torch import Tensor

from wespeaker_qm.losses import AngularMarginHead, PrototypeSGD, QMarginHead
from wespeaker_qm.losses.lazy_rows import LazyRows
from wespeaker_qm.utils.errors import RecipeError

HYPER = {
    "momentum": {"momentum": 0.9, "weight_decay": 1e-4},
    "nesterov": {"momentum": 0.9, "weight_decay": 1e-2, "nesterov": True},
    "without decay": {"momentum": 0.95, "weight_decay": 0.0},
    "without momentum": {"momentum": 0.0, "weight_decay": 1e-2},
}


def learning_rate(step: int) -> float:
    return 0.3 * 0.99**step * (0.1 if step % 7 == 0 else 1.0)


def drawn(num_classes: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some classes, and a gradient of each."""
    classes = torch.randperm(num_classes, generator=generator)[: int(torch.randint(1, 12, (), generator=generator))]
    return classes, torch.randn(len(classes), dim, generator=generator)


class Dense:
    """PyTorch's SGD on dense gradients."""

    def __init__(self, rows: Tensor, hyper: dict[str, float]) -> None:
        self.weight = rows.clone().requires_grad_()
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0, **hyper)

    def step(self, rate: float, classes: Tensor, gradient: Tensor) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        grad = torch.zeros_like(self.weight)
        self.weight.grad = grad.index_copy(0, classes, gradient.to(grad))
        self.optimizer.step()

    @property
    def momenta(self) -> Tensor:
        return self.optimizer.state[self.weight].get("momentum_buffer", torch.zeros(()))


@pytest.mark.parametrize("dim", [7, 64])
@pytest.mark.parametrize("name", HYPER)
def test_rows_and_momenta_are_those_of_sgd_to_the_last_bit(name: str, dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    rows = torch.randn(150, dim, generator=generator)
    dense, precise = Dense(rows, HYPER[name]), Dense(rows.double(), HYPER[name])
    lazy = LazyRows(rows.clone(), torch.zeros_like(rows), **HYPER[name])
    for step in range(200):
        classes, gradient = drawn(150, dim, generator)
        for each in (dense, precise, lazy):
            each.step(learning_rate(step), classes, gradient)
        assert torch.equal(lazy.rows[classes], dense.weight[classes])
        some = torch.randperm(150, generator=generator)[:5]  # somebody looks at rows, whenever that is
        if step % 3 == 0:
            lazy.catch_up(some)
            assert torch.equal(lazy.rows[some], dense.weight[some])
        if step % 50 == 20:
            lazy.catch_up()
            assert torch.equal(lazy.rows, dense.weight)
    assert not lazy.are_current  # or nothing was put off
    assert not torch.equal(lazy.rows, dense.weight)
    lazy.catch_up()
    assert torch.equal(lazy.rows, dense.weight)
    if HYPER[name]["momentum"]:
        assert torch.equal(lazy.momenta, dense.momenta)
    torch.testing.assert_close(lazy.rows.double(), precise.weight.detach(), rtol=2e-5, atol=2e-5)


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.detach().double())


@pytest.mark.parametrize("rate", [0.001, 0.1, 3.0])
@pytest.mark.parametrize("name", HYPER)
def test_no_direction_is_further_off_than_is_said(name: str, rate: float) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(200, 16, generator=generator)
    dense = Dense(rows, HYPER[name])
    lazy = LazyRows(rows.clone(), torch.zeros_like(rows), precision=torch.float32, **HYPER[name])
    nearest = 0.0
    for step in range(150):
        classes, gradient = drawn(200, 16, generator)
        for each in (dense, lazy):
            each.step(rate * learning_rate(step), classes, 0.3 * gradient)
        lazy.catch_up_turned()
        chord = (lazy.directions.double() - unit(dense.weight)).norm(dim=1)
        assert chord.max() <= lazy.turned
        assert lazy.turned <= 2**-7 * 1.01
        nearest = max(nearest, float(chord.max()) / lazy.turned)
    assert nearest > 0.5 or not HYPER[name]["momentum"]  # a bound that is far from what happens would cost candidates


HEADS = {
    "filtered": (QMarginHead, 1500, {"scale": 20.0, "alpha": 1.5}),
    "filtered, angular": (AngularMarginHead, 1500, {"scale": 20.0, "alpha": 1.75}),
    "many candidates": (QMarginHead, 1500, {"scale": 2.0, "alpha": 1.25}),
    "few classes": (QMarginHead, 300, {"scale": 20.0, "alpha": 1.5}),
    "softmax": (QMarginHead, 300, {"scale": 20.0, "alpha": 1.0}),
}
RECIPE = {"momentum": 0.9, "weight_decay": 1e-3}


def made(name: str) -> tuple[torch.nn.Module, PrototypeSGD]:
    kind, num_classes, arguments = HEADS[name]
    torch.manual_seed(5)
    head = kind(32, num_classes, **arguments)
    with torch.no_grad():
        head.weight.mul_(5)
    return head, PrototypeSGD([head.weight], head, lr=1.0, **RECIPE)


@functools.cache
def all_batches(num_classes: int) -> list[tuple[Tensor, Tensor]]:
    """Embeddings (16, 32) somewhere near fixed directions of their classes, and targets."""
    generator = torch.Generator().manual_seed(9)
    truth = torch.randn(num_classes, 32, generator=generator)
    targets = [torch.randint(num_classes, (16,), generator=generator) for _ in range(60)]
    return [(truth[target] + 0.5 * torch.randn(16, 32, generator=generator), target) for target in targets]


def batches(num_classes: int, number: int) -> list[tuple[Tensor, Tensor]]:
    """The first ones."""
    return [(embedding.clone(), target.clone()) for embedding, target in all_batches(num_classes)[:number]]


def train(
    head: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int, factor: float = 1.0
) -> list[float]:
    losses = []
    for step, (embedding, target) in enumerate(batches(len(head.weight), last)):
        if step >= first:
            optimizer.param_groups[0]["lr"] = factor * 5 * learning_rate(step)
            optimizer.zero_grad()
            loss = head(embedding, target, 0.1).loss.mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", HEADS)
def test_a_lazy_head_computes_what_a_plain_one_does(name: str) -> None:
    head, optimizer = made(name)
    plain = copy.deepcopy(head)
    assert plain.kept is None
    dense = Dense(head.weight.detach(), RECIPE)
    plain.weight = torch.nn.Parameter(dense.weight.detach())
    behind = 0
    for step, (embedding, target) in enumerate(batches(len(head.weight), 50)):
        behind += not torch.equal(head.weight, dense.weight)
        results = []
        for each in (head, plain):
            own = embedding.clone().requires_grad_()
            result = each(own, target, 0.1)
            each.weight.grad = None
            result.loss.mean().backward()
            results.append((result, own.grad, each.weight.grad.to_dense()))
        (lazy, lazy_towards, lazy_grad), (now, towards, grad) = results
        torch.testing.assert_close(lazy.loss, now.loss, rtol=1e-5, atol=1e-5)
        assert torch.equal(lazy.correct, now.correct)
        if now.sparsity is not None:
            assert torch.equal(lazy.sparsity.support, now.sparsity.support)
            assert torch.equal(lazy_grad.any(1), grad.any(1))
        torch.testing.assert_close(lazy_towards, towards, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(lazy_grad, grad, rtol=1e-4, atol=1e-6)
        rate = optimizer.param_groups[0]["lr"] = 5 * learning_rate(step)
        optimizer.step()
        dense.step(rate, torch.arange(len(grad)), lazy_grad)
    assert behind > 40 if name.startswith("filtered") else behind == 0
    assert torch.equal(head.state_dict()["weight"], dense.weight)
    assert torch.equal(head.weight, dense.weight)


def test_a_step_moves_few_rows() -> None:
    head, optimizer = made("filtered")
    moved = []
    for step in range(31):
        before = head.weight.detach().clone()
        train(head, optimizer, step, step + 1, factor=0.01)
        moved.append(float((head.weight != before).any(1).float().mean()))
    assert max(moved) < 0.3
    before = head.weight.detach().clone()
    assert not torch.equal(before, head.state_dict()["weight"])


@pytest.mark.parametrize("at", [1, 17, 32])
def test_a_training_goes_on_from_a_checkpoint_to_the_same_bits(at: int) -> None:
    head, optimizer = made("filtered")
    losses = train(head, optimizer, 0, 40)
    first, first_optimizer = made("filtered")
    early = train(first, first_optimizer, 0, at)
    saved = copy.deepcopy((first.state_dict(), first_optimizer.state_dict()))
    assert list(saved[0]) == ["weight"]
    assert list(saved[1]["state"][0]) == ["momentum_buffer"]
    second, second_optimizer = made("filtered")
    train(second, second_optimizer, 0, 3)  # what it did before is forgotten
    second.load_state_dict(saved[0])
    second_optimizer.load_state_dict(saved[1])
    for each, each_optimizer in ((first, first_optimizer), (second, second_optimizer)):
        assert early + train(each, each_optimizer, at, 40) == losses
        assert torch.equal(each.state_dict()["weight"], head.state_dict()["weight"])
    momenta = [each.state_dict()["state"][0]["momentum_buffer"] for each in (optimizer, second_optimizer)]
    assert torch.equal(*momenta)


def test_states_go_to_sgd_and_back() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 10)
    dense = torch.optim.SGD([torch.nn.Parameter(head.state_dict()["weight"].clone())], lr=1.0)
    dense.load_state_dict(optimizer.state_dict())
    assert dense.param_groups[0]["momentum"] == 0.9
    momenta = optimizer.state_dict()["state"][0]["momentum_buffer"].clone()
    _, other_optimizer = made("filtered")
    other_optimizer.load_state_dict(dense.state_dict())
    assert torch.equal(other_optimizer.state_dict()["state"][0]["momentum_buffer"], momenta)
    assert other_optimizer.state_dict()["state"][0]["momentum_buffer"] is not momenta
    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0, **RECIPE)
    other_optimizer.load_state_dict(unused.state_dict())
    assert not other_optimizer.state_dict()["state"][0]["momentum_buffer"].any()


CHANGES = [{"momentum": 0.5, "weight_decay": 0.1, "nesterov": True}, {"momentum": 0.0}, {"momentum": 0.8}]


def test_settings_may_change_between_steps() -> None:
    head, optimizer = made("filtered")
    dense = Dense(head.weight.detach(), RECIPE)
    generator = torch.Generator().manual_seed(1)
    for step in range(30):
        for each in (optimizer, dense.optimizer):
            each.param_groups[0].update(CHANGES[step // 8 - 1] if step >= 8 and step % 8 == 0 else {})
        classes, gradient = drawn(1500, 32, generator)
        classes = classes.sort().values
        head.weight.grad = torch.sparse_coo_tensor(classes[None], gradient, (1500, 32), check_invariants=False)
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        dense.step(0.1, classes, gradient)
    assert torch.equal(head.state_dict()["weight"], dense.weight)


def test_gradients_of_several_batches_are_added_up() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 9)
    dense = Dense(head.state_dict()["weight"], RECIPE)
    dense.optimizer.state[dense.weight]["momentum_buffer"] = optimizer.state[head.weight]["momentum_buffer"].clone()
    train(head, optimizer, 9, 12)
    weight = head.weight.detach().clone()
    few = batches(1500, 14)[12:]
    head.weight.grad = None
    sum(head(*batch, 0.1).loss.mean() for batch in few).backward()  # two forwards, and then the gradients of both
    gradient = head.weight.grad
    assert not torch.equal(head.weight, weight)  # rows were caught up by the second
    current = copy.deepcopy(head.state_dict()["weight"]).requires_grad_()
    plain = QMarginHead(32, 1500, scale=20.0, alpha=1.5)
    plain.weight = torch.nn.Parameter(current.detach())
    sum(plain(*batch, 0.1).loss.mean() for batch in few).backward()
    torch.testing.assert_close(gradient.to_dense(), plain.weight.grad, rtol=1e-4, atol=1e-6)


def test_a_loss_from_before_a_step_is_not_derived_after_it() -> None:
    head, optimizer = made("filtered")
    (first, second) = batches(1500, 2)
    late = head(*first, 0.1).loss.mean()
    head(*second, 0.1).loss.mean().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_without_a_gradient_there_is_no_step_and_a_closure_gives_one() -> None:
    head, optimizer = made("filtered")
    before = head.weight.detach().clone()
    assert optimizer.step() is None
    assert torch.equal(head.state_dict()["weight"], before)

    def closure() -> float:
        loss = head(*batches(1500, 1)[0], 0.1).loss.mean()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > 0
    assert not torch.equal(head.state_dict()["weight"], before)


def test_a_scaler_makes_no_step_of_an_infinite_gradient() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    before = copy.deepcopy(head.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for factor in (torch.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * head(*batches(1500, 8)[-1], 0.1).loss.mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(head.state_dict()["weight"], before["weight"]) == (factor == torch.inf)


@pytest.mark.parametrize("value", [0.0, 1e-25, 1e25])
def test_rows_of_extreme_norm_are_as_in_a_plain_head(value: float) -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    head.state_dict()
    with torch.no_grad():
        head.weight[40:60] = value
    plain = copy.deepcopy(head)
    for embedding, target in batches(1500, 8)[5:]:
        target[:3] = torch.tensor([40, 50, 0])
        losses = [each(embedding, target, 0.1) for each in (head, plain)]
        torch.testing.assert_close(losses[0].loss, losses[1].loss, rtol=1e-5, atol=1e-5)
        assert torch.equal(losses[0].sparsity.support, losses[1].sparsity.support)


def test_a_nan_prototype_spoils_all_losses() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    optimizer.catch_up()
    with torch.no_grad():
        head.weight[7, 3] = torch.nan
    assert head(*batches(1500, 1)[0], 0.1).loss.isnan().all()


def test_weights_that_others_change() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    with torch.no_grad():
        head.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"changed while some were behind, expected catch_up\(\)"):
        train(head, optimizer, 5, 6)
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    optimizer.catch_up()
    with torch.no_grad():
        head.weight.copy_(head.weight.flip(0))  # as a re-initialisation does
    embedding, target = batches(1500, 1)[0]
    plain = copy.deepcopy(head)
    torch.testing.assert_close(head(embedding, target, 0.1).loss, plain(embedding, target, 0.1).loss)
    head.weight.data = head.weight.data.clone()
    with pytest.raises(ValueError, match="found other prototypes than the optimiser's"):
        head(embedding, target, 0.1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_a_copy_of_a_head_is_a_plain_one(copied) -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    with pytest.raises(RuntimeError, match=r"behind, expected catch_up\(\)"):
        copied(head)
    optimizer.catch_up()
    other = copied(head)
    assert other.kept is None
    assert torch.equal(other.weight, head.weight)


def test_another_optimiser_takes_a_head_over() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    same, same_optimizer = made("filtered")
    train(same, same_optimizer, 0, 5)
    other_optimizer = PrototypeSGD([head.weight], head, lr=1.0, **RECIPE)
    assert torch.equal(head.weight, same.state_dict()["weight"])
    with pytest.raises(RuntimeError, match="another optimiser has taken over"):
        train(head, optimizer, 5, 6)
    other_optimizer.catch_up()
    head.kept = None  # as is said of an optimiser of another class
    assert head.state_dict()["weight"] is not None
    train(head, torch.optim.SGD([head.weight], lr=1.0), 5, 6)
    assert not head.weight.grad.is_sparse


def test_what_it_is_not_for() -> None:
    head = QMarginHead(32, 300, scale=20.0, alpha=1.5)
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum"):
        PrototypeSGD([head.weight], head, lr=1.0, momentum=0.0, nesterov=True)
    double = copy.deepcopy(head).double()
    with pytest.raises(RecipeError, match=r"torch\.float64 on cpu, expected torch\.float32 on cpu"):
        PrototypeSGD([double.weight], double, lr=1.0)
    elsewhere = copy.deepcopy(head).to("meta")
    with pytest.raises(RecipeError, match="on meta, expected"):
        PrototypeSGD([elsewhere.weight], elsewhere, lr=1.0)
    for name, value in (("maximize", True), ("dampening", 0.5)):
        with pytest.raises(RecipeError, match=rf"found {name} {value} in the group of the prototypes, expected none"):
            PrototypeSGD([{"params": [head.weight], name: value}], head, lr=1.0)


def test_a_learning_rate_in_a_tensor_is_that_of_its_step() -> None:
    """PyTorch's schedulers change it in place."""
    head, optimizer = made("filtered")
    dense = Dense(head.weight.detach(), RECIPE)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        classes, gradient = drawn(1500, 32, generator)
        head.weight.grad = torch.zeros(1500, 32).index_copy_(0, classes, gradient).to_sparse(1)
        optimizer.step()
        scheduler.step()
        dense.step(0.5 * 0.5**step, classes, gradient)
    assert not torch.equal(head.weight, dense.weight)  # or nothing was put off
    assert torch.equal(head.state_dict()["weight"], dense.weight)


def test_what_hangs_on_a_step_happens_once() -> None:
    head, optimizer = made("filtered")
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)  # when PyTorch puts hooks around its class
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(head, optimizer, 0, 1)
    assert calls == ["before", "after"]


def test_a_head_that_is_converted_takes_current_rows_along() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    same, same_optimizer = made("filtered")
    train(same, same_optimizer, 0, 5)
    expected = same.state_dict()["weight"]
    assert not torch.equal(head.weight, expected)
    assert torch.equal(torch.nn.Sequential(head).double()[0].weight, expected.double())
    with pytest.raises(ValueError, match="move or convert a head before its optimiser is made"):
        train(head, optimizer, 5, 6)


def test_rows_may_be_changed_behind_the_back_of_autograd() -> None:
    head, optimizer = made("filtered")
    train(head, optimizer, 0, 5)
    optimizer.catch_up()
    head.weight.data.copy_(head.weight.flip(0))
    plain = copy.deepcopy(head)
    losses = [each(*batches(1500, 1)[0], 0.1).loss for each in (head, plain)]
    torch.testing.assert_close(*losses)


def test_a_training_goes_on_after_a_check_in_inference_mode() -> None:
    head, optimizer = made("filtered")
    same, same_optimizer = made("filtered")
    train(same, same_optimizer, 0, 6)
    train(head, optimizer, 0, 3)
    head.state_dict()
    with torch.inference_mode():
        head(*batches(1500, 1)[0], 0.1)
    train(head, optimizer, 3, 6)
    assert torch.equal(head.state_dict()["weight"], same.state_dict()["weight"])


def test_a_batch_may_be_empty() -> None:
    head, optimizer = made("filtered")
    dense = Dense(head.weight.detach(), RECIPE)
    optimizer.param_groups[0]["lr"] = 0.5
    head(torch.empty(0, 32), torch.empty(0, dtype=torch.int64), 0.1).loss.sum().backward()
    optimizer.step()
    dense.step(0.5, torch.empty(0, dtype=torch.int64), torch.empty(0, 32))
    assert torch.equal(head.state_dict()["weight"], dense.weight)


def test_a_state_that_is_cleared_begins_anew() -> None:
    head, optimizer = made("filtered")
    dense = Dense(head.weight.detach(), RECIPE)
    generator = torch.Generator().manual_seed(1)
    for step in range(8):
        if step == 4:
            optimizer.state.clear()
            dense.optimizer.state.clear()
        classes, gradient = drawn(1500, 32, generator)
        head.weight.grad = torch.zeros(1500, 32).index_copy_(0, classes, gradient).to_sparse(1)
        optimizer.step()
        dense.step(1.0, classes, gradient)
    assert torch.equal(head.state_dict()["weight"], dense.weight)
    assert torch.equal(optimizer.state_dict()["state"][0]["momentum_buffer"], dense.momenta)

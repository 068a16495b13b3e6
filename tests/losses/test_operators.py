"""Operators with gradients: the same compiled or not, derived once, and nodes of a graph only where one is made."""

import pytest
import torch
from torch import Tensor

from wespeaker_qm.losses.operators import differentiable, operator


@operator("test_loss")
def loss(
    embedding: Tensor, prototypes: Tensor, target: Tensor, power: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A loss (B,), another result (B,), and what the gradients need (B, D)."""
    chosen = prototypes[target]
    return scale * (embedding * chosen).sum(1) ** power, embedding.sum(1), embedding.clone()


@loss.node.register_fake
def _(
    embedding: Tensor, prototypes: Tensor, target: Tensor, power: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return embedding.new_empty(len(embedding)), embedding.new_empty(len(embedding)), torch.empty_like(embedding)


@operator("test_gradients")
def gradients(grad_loss: Tensor, prototypes: Tensor, embedding: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Of power 1, of the embeddings and, for simplicity, of prototypes that are each the target of one row."""
    return scale * grad_loss[:, None] * prototypes, scale * grad_loss[:, None] * embedding


@gradients.node.register_fake
def _(grad_loss: Tensor, prototypes: Tensor, embedding: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(prototypes), torch.empty_like(embedding)


derived = differentiable(loss, gradients, num_results=2, settings=slice(4, 5))


def leaves() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)


def test_it_is_a_node_of_a_graph_and_else_a_function_with_the_same_gradients() -> None:
    embedding, prototypes = leaves()
    target, nodes = torch.arange(3), []

    def seen(module: torch.fx.GraphModule, inputs: object) -> object:
        nodes.extend(str(node.target) for node in module.graph.nodes)
        return module

    compiled = torch.compile(derived, fullgraph=True, backend=seen)
    results = []
    for function in (derived, compiled):
        found, other, _ = function(embedding, prototypes, target, 1.0, 3.0)
        assert not other.requires_grad
        results.append((found, *torch.autograd.grad(found.sum(), (embedding, prototypes))))
    assert any("wespeaker_qm.test_loss" in node for node in nodes)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert torch.equal(results[0][1], 3 * prototypes) and torch.equal(results[0][2], 3 * embedding)


def test_a_second_derivative_is_refused() -> None:
    embedding, prototypes = leaves()
    found, *_ = derived(embedding, prototypes, torch.arange(3), 1.0, 3.0)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(found.sum(), embedding, create_graph=True)

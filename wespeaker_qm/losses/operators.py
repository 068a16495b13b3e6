"""A loss as an operator with its gradients: a node of what ``torch.compile`` makes, elsewhere a plain function.

To call an operator that is written in Python takes PyTorch longer than the device takes for a small loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef  # the type of what `torch.library.custom_op` gives

from wespeaker_qm.losses.alpha import first_derivative_only

Tensors = tuple[Tensor, ...]


class Operator(NamedTuple):
    """A function of tensors and numbers, and the operator that it is registered as."""

    plain: Callable[..., Tensors]
    node: CustomOpDef


def operator(name: str) -> Callable[[Callable[..., Tensors]], Operator]:
    """Decorator: register a function, which changes none of its arguments. `Operator.node` wants a fake, too."""
    return lambda function: Operator(
        function, torch.library.custom_op(f"wespeaker_qm::{name}", function, mutates_args=())
    )


def differentiable(loss: Operator, gradients: Operator, num_results: int, settings: slice) -> Callable[..., Tensors]:
    """The loss as a function with derivatives, compiled or not.

    Args:
        loss: from embeddings, prototypes, targets and settings to results and what the gradients need. Only the first
            result can be derived.
        gradients: from the gradient of the loss, the prototypes, what the gradients need, and some settings, to the
            gradients of embeddings and prototypes.
        num_results: how many outputs of the loss are results; the others are what the gradients need.
        settings: where among the arguments of the loss those are that the gradients need.
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.settings, ctx.num_inputs = inputs[settings], len(inputs)
        ctx.save_for_backward(inputs[1], *output[num_results:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # else each of these outputs, of whatever size, gets zeros in every backward

    def backward_by(function: Callable[..., Tensors]) -> Callable[..., tuple[Tensor | None, ...]]:
        @first_derivative_only
        def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
            found = function(grad_loss, *ctx.saved_tensors, *ctx.settings)
            return *found, *[None] * (ctx.num_inputs - len(found))

        return backward

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensors:
            output = loss.plain(*inputs)
            keep(ctx, inputs, output)
            return output

        backward = staticmethod(backward_by(gradients.plain))

    loss.node.register_autograd(backward_by(gradients.node), setup_context=keep)

    def call(*inputs: Any) -> Tensors:
        found: Tensors = (loss.node if torch.compiler.is_compiling() else Plain.apply)(*inputs)
        return found

    return call

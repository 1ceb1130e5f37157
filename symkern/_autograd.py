"""The one place that ties gradients and fake kernels to ops, so that the mechanism can be swapped.

Mechanism: ``torch.library.register_autograd``. It makes an op differentiable wherever it is called (eager, under
``torch.compile``, from another op's backward), and ``opcheck`` can verify it. A derivative is itself an op with its own
registration: a ladder that ends in an op without one, which then says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

_F = TypeVar("_F", bound=Callable[..., Any])
_LIBRARY = torch.library.Library("symkern", "FRAGMENT")


def fake(op: str) -> Callable[[_F], _F]:
    """Decorator: what ``symkern::op`` returns for tensors without data (shapes, dtypes, devices), for tracing."""
    return cast(Callable[[_F], _F], torch.library.register_fake(f"symkern::{op}"))


def differentiable(
    op: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
) -> None:
    """Register the gradient of ``symkern::op``, and that under autocast it computes in fp32 (fp64 stays fp64).

    As ``torch.library.register_autograd``, for ops without default values, whose lookup there costs a fused op with its
    twenty arguments 0.2 ms per call.
    """
    overload = getattr(torch.ops.symkern, op).default

    def below(keyset: Any, *inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return overload.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs_and_keyset: Any) -> Any:
            *inputs, keyset = inputs_and_keyset
            output = below(keyset, *inputs)
            if setup_context is not None:
                setup_context(ctx, tuple(inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            found = backward(ctx, *grads)
            return *(found if isinstance(found, tuple) else (found,)), None

    Node.__name__ = Node.__qualname__ = f"Symkern_{op}"  # what grad_fn and profilers show

    def recorded(keyset: Any, *inputs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return Node.apply(*inputs, keyset)  # type: ignore[no-untyped-call]
        return below(keyset, *inputs)

    _LIBRARY.impl(op, recorded, "Autograd", with_keyset=True)
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"symkern::{op}", device, torch.float32)


def gradient_of(
    reference: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product of a pure-torch `reference` at `inputs`: the last rung of a ladder, any order above it.

    The result depends on `inputs` and `grads` differentiably when gradients are being recorded.
    """
    with torch.enable_grad():
        # views, so that the product stops at the inputs even where one of them was computed from another
        points = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        outputs = reference(*points)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        chosen = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None and y.requires_grad]
        return torch.autograd.grad(
            [y for y, _ in chosen],
            points,
            [g for _, g in chosen],
            create_graph=True,
            allow_unused=True,
        )

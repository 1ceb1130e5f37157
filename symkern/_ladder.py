"""The three rungs of a fused layer: an op, its gradient and the gradient of that, none of which keeps rows per edge.

Arguments of ``symkern::NAME`` come in three groups: floats with a gradient (each may be None), index tensors (likewise)
and settings. From these the other two ops follow:

    NAME_backward(*grads, *arguments, mask) -> gradients of the floats
    NAME_double_backward(*directions, *grads, *arguments, mask) -> gradients of grads, then of the floats

`grads` are those of the outputs, `directions` those of the gradients of the first few floats (`directed`), and all of
them may be None, which stands for zero. Bit k of `mask` asks for result k; one that is not asked for is empty, (0,).

What training on energies and forces does not need goes through the pure-torch `reference`, which keeps rows per edge:
second derivatives along directions of the other floats (the weights), and derivatives of order three and more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symkern._autograd import differentiable, fake, gradient_of
from symkern._reference import by_reference, compute

Reference = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Ladder:
    """One fused layer.

    Attributes:
        name: of the op.
        reference: the same function of the same arguments in torch operations.
        shapes: the same arguments to the shapes of the outputs.
        floats, indices: how many arguments are of either group.
        outputs: how many tensors the op returns.
        directed: how many of the floats the double backward takes directions of.
    """

    name: str
    reference: Reference
    shapes: Callable[..., tuple[tuple[Any, ...], ...]]
    floats: int
    indices: int
    outputs: int
    directed: int

    def __call__(self, *arguments: Any) -> Any:
        """The op, or in `reference_mode` its reference: in either case a tensor if it is one, else a tuple."""
        if by_reference():
            found = compute(self.reference, *arguments)
            return found if self.outputs > 1 else found[0]
        return self.op()(*arguments)

    def op(self, rung: str = "") -> Any:
        return getattr(torch.ops.symkern, self.name + rung).default

    def register(self) -> None:
        fake(self.name)(self._fake)
        fake(f"{self.name}_backward")(self._fake_backward)
        fake(f"{self.name}_double_backward")(self._fake_double_backward)
        differentiable(self.name, self._backward, self._setup(0))
        differentiable(f"{self.name}_backward", self._double_backward, self._setup(self.outputs))
        differentiable(f"{self.name}_double_backward", self._triple_backward, self._setup(self.directed + self.outputs))

    # ---- shapes ------------------------------------------------------------------------------------------------------

    def _fake(self, *arguments: Any) -> tuple[Tensor, ...] | Tensor:
        made = tuple(_like(arguments).new_empty(shape) for shape in self.shapes(*arguments))
        return made if self.outputs > 1 else made[0]

    def _fake_backward(self, *arguments: Any) -> tuple[Tensor, ...]:
        return self._sized(arguments[self.outputs : -1][: self.floats], arguments[-1])

    def _fake_double_backward(self, *arguments: Any) -> tuple[Tensor, ...]:
        own, mask = arguments[self.directed + self.outputs : -1], arguments[-1]
        like = _like(own)
        first = tuple(like.new_empty(shape if mask >> k & 1 else (0,)) for k, shape in enumerate(self.shapes(*own)))
        return first + self._sized(own[: self.floats], mask >> self.outputs)

    def _sized(self, floats: Sequence[Tensor | None], mask: int) -> tuple[Tensor, ...]:
        like = _like(floats)
        return tuple(like.new_empty(x.shape if x is not None and mask >> k & 1 else (0,)) for k, x in enumerate(floats))

    # ---- gradients ---------------------------------------------------------------------------------------------------

    def _setup(self, before: int) -> Callable[..., None]:
        """Saves the arguments of a rung, `before` of which precede those of the op itself."""
        tensors = before + self.floats + self.indices

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs[:tensors])
            ctx.settings = inputs[tensors:]
            ctx.set_materialize_grads(False)

        return setup

    def _backward(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: checkpointing makes them anew at every look
        needs = _wanted(ctx, saved)[: self.floats]
        found: Sequence[Tensor | None] = [None] * self.floats
        if any(needs) and any(g is not None for g in grads):
            found = self.op("_backward")(*_plain(grads), *saved, *ctx.settings, _mask(needs))
        return (*_kept(found, needs), *[None] * (self.indices + len(ctx.settings)))

    def _double_backward(self, ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        before, saved, settings = self.outputs, ctx.saved_tensors, ctx.settings[:-1]
        needs = _wanted(ctx, saved)[: before + self.floats]
        none = [None] * (self.indices + len(ctx.settings))
        along = [d if ctx.settings[-1] >> k & 1 else None for k, d in enumerate(directions)]
        if not any(needs) or all(d is None for d in along):
            return (*[None] * len(needs), *none)
        if any(d is not None for d in along[self.directed :]):
            found = self._by_reference(along, saved, settings, 1)
        else:
            found = self.op("_double_backward")(*_plain(along[: self.directed]), *saved, *settings, _mask(needs))
        return (*_kept(found[: len(needs)], needs), *none)

    def _triple_backward(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, settings = ctx.saved_tensors, ctx.settings[:-1]
        asked = [g if ctx.settings[-1] >> k & 1 else None for k, g in enumerate(grads)]
        found = self._by_reference(asked, saved, settings, 2)
        return (*found, *[None] * (self.indices + len(ctx.settings)))

    def _by_reference(
        self, grads: Sequence[Tensor | None], saved: Sequence[Tensor | None], settings: Sequence[Any], order: int
    ) -> list[Tensor | None]:
        """The gradient of rung `order` along `grads`: for every tensor before the indices, None where there is none."""
        floats = len(saved) - self.indices
        given = [k for k in range(floats) if saved[k] is not None]

        def run(*points: Tensor) -> tuple[Tensor, ...]:
            arguments: list[Any] = list(saved)
            for k, x in zip(given, points, strict=True):
                arguments[k] = x
            return self._rung(arguments, settings, order)

        found: list[Tensor | None] = [None] * floats
        for k, g in zip(given, gradient_of(run, [saved[k] for k in given], grads), strict=True):  # type: ignore[misc]
            found[k] = g
        return found

    def _rung(self, arguments: Sequence[Any], settings: Sequence[Any], order: int) -> tuple[Tensor, ...]:
        """Outputs of rung `order` of the reference, in full: rung 0 is the reference itself."""
        if order == 0:
            return self.reference(*arguments, *settings)
        count = self.outputs if order == 1 else self.directed
        grads, rest = arguments[:count], arguments[count:]
        floats = len(rest) - self.indices
        points = [x if x is None else x if x.requires_grad else x.detach().requires_grad_() for x in rest[:floats]]
        given = [x for x in points if x is not None]
        outputs = self._rung([*points, *rest[floats:]], settings, order - 1)
        chosen = [(y, g) for y, g in zip(outputs, grads, strict=False) if g is not None and y.requires_grad]
        found = iter(
            torch.autograd.grad(
                [y for y, _ in chosen],
                given,
                [g for _, g in chosen],
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            if chosen
            else [torch.zeros_like(x) for x in given]
        )
        like = given[0]
        return tuple(like.new_zeros(0) if x is None else next(found) for x in points)


def _like(tensors: Sequence[Any]) -> Tensor:
    return next(x for x in tensors if isinstance(x, Tensor) and x.is_floating_point())


def _plain(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


def _mask(needs: Sequence[bool]) -> int:
    return sum(1 << k for k, need in enumerate(needs) if need)


def _kept(found: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
    return [x if need else None for x, need in zip(found, needs, strict=True)]


def _wanted(ctx: Any, saved: Sequence[Tensor | None]) -> tuple[bool, ...]:
    """Which inputs' gradients this backward pass will use.

    ``needs_input_grad`` says which inputs have a gradient; the engine knows besides which of them the pass at hand is
    for. Forces are derivatives in positions alone: this saves the gradients of all weights, a third of the work.
    """
    needs: tuple[bool, ...] = tuple(ctx.needs_input_grad)
    ask = getattr(torch._C, "_will_engine_execute_node", None)
    nodes = [node for node, _ in getattr(ctx, "next_functions", ())]
    tensors = [k for k, x in enumerate(saved) if x is not None]  # one node each
    if ask is None or len(nodes) != len(tensors) or torch.compiler.is_compiling():
        return needs

    def will(node: Any) -> bool:
        try:
            return node is None or bool(ask(node))
        except RuntimeError:  # a leaf that the pass was asked for by name
            return True

    asked = {k for k, node in zip(tensors, nodes, strict=True) if will(node)}
    return tuple(need and k in asked for k, need in enumerate(needs))

"""`reference_mode`: every op in plain torch operations instead of its kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, TypeVar

import torch
from torch import Tensor

from symkern._check import HALF

_T = TypeVar("_T")


class _State(threading.local):
    """Of each thread its own; torch.compile reads it while tracing, and compiles anew where it has changed."""

    on = False


_STATE = _State()


def by_reference() -> bool:
    """Whether ops of this thread are to go through their references."""
    return _STATE.on


class reference_mode(ContextDecorator):  # noqa: N801  # a function to its users
    """Within it every op of symkern is computed by its reference, in plain torch (or NumPy) operations.

    For debugging (a debugger, anomaly detection or a profiler sees every step), for devices without kernels, and to
    check a suspicion: results are those of the kernels up to rounding. Checks of arguments in Python stay; those inside
    the kernels (such as those of values) do not take place. References are slow, keep rows per edge and per pair, and
    are differentiable to any order through autograd; their gradients are not deterministic on CUDA.

    A context manager and a decorator; it can be nested, and ``reference_mode(False)`` brings the kernels back inside.
    It concerns the calling thread alone. What is recorded for differentiation keeps its way: a graph made outside goes
    back through kernels, one made inside through torch. With `torch.utils.checkpoint` the backward pass, which computes
    forward once more, must be inside too. Under ``torch.compile`` the mode is part of what a compiled function depends
    on; references that read sizes from data (sums over segments and edges) break graphs, so not with ``fullgraph``.

    Exceptions: `symkern.host` works on NumPy arrays and is the compiled core itself; `symkern.canonicalize` has no
    reference for the gap and the ranks of orbits, so it (and `sann_graphs`' canonical input) keeps its kernel.

    Args:
        enabled: False for the kernels.

    Example:
        >>> import torch, symkern as sk
        >>> model = sk.models.SchNet(hidden=16, num_filters=16, num_interactions=1)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        >>> energy, forces = sk.energy_and_forces(model, z, pos)
        >>> with sk.reference_mode():
        ...     expected = sk.energy_and_forces(model, z, pos)
        >>> torch.testing.assert_close((energy, forces), expected)
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._before: list[bool] = []

    def _recreate_cm(self) -> reference_mode:
        """For each call of a decorated function its own, so that threads and recursion do not share one."""
        return reference_mode(self.enabled)

    def __enter__(self) -> None:
        self._before.append(_STATE.on)
        _STATE.on = self.enabled

    def __exit__(self, *_: object) -> None:
        _STATE.on = self._before.pop()


def compute(reference: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    """reference(...); under autocast in fp32, as the kernels."""
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    kind = tensors[0].device.type if tensors else "cpu"
    if not torch.is_autocast_enabled(kind):
        return reference(*arguments, **options)
    with torch.autocast(kind, enabled=False):
        return reference(*(x.float() if isinstance(x, Tensor) and x.dtype in HALF else x for x in arguments), **options)

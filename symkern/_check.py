"""Checks of arguments that must happen in Python: types, and what the dispatcher would not catch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def check_tensor(name: str, value: Any, *, optional: bool = False, hint: str = "") -> None:
    """Raise TypeError unless `value` is a tensor (or None, if that is allowed)."""
    if not isinstance(value, Tensor) and not (optional and value is None):
        kind = type(value)
        raise TypeError(f"{name} must be a torch.Tensor, got {kind.__module__}.{kind.__qualname__}{hint}")


def check_reverse_mode(op: str, *inputs: Tensor | None) -> None:
    """Raise where forward-mode differentiation is under way: torch would return zero tangents without a word."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        raise RuntimeError(
            f"symkern.{op} has no forward-mode derivative (torch.func.jvp, forward_ad); use reverse mode: "
            "torch.autograd.grad, applied twice for Hessian-vector products"
        )

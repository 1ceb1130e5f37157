"""Checks of arguments that must happen in Python: types, and what the dispatcher would not catch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

HALF = (torch.float16, torch.bfloat16)


def check_tensor(name: str, value: Any, *, optional: bool = False, hint: str = "") -> None:
    """Raise TypeError unless `value` is a tensor (or None, if that is allowed)."""
    if not isinstance(value, Tensor) and not (optional and value is None):
        kind = type(value)
        raise TypeError(f"{name} must be a torch.Tensor, got {kind.__module__}.{kind.__qualname__}{hint}")


def check_instance(name: str, value: Any, kind: type, maker: str) -> None:
    """Raise TypeError unless `value` is what `maker` makes."""
    if not isinstance(value, kind):
        found = type(value)
        got = f"{found.__module__}.{found.__qualname__}"
        raise TypeError(f"{name} must be symkern.{kind.__name__}, as {maker} makes it, got {got}")


def whole(name: str, value: Tensor) -> Tensor:
    """`value` as int64; ValueError if it does not hold integers."""
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {str(value.dtype)[6:]}")
    return value.to(torch.int64)


def same_precision(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """If one of two tensors has half precision, as under autocast, it gets the dtype of the other."""
    full = (torch.float32, torch.float64)
    if x.dtype in HALF and y.dtype in full:
        return x.to(y.dtype), y
    return (x, y.to(x.dtype)) if y.dtype in HALF and x.dtype in full else (x, y)


def check_reverse_mode(op: str, *inputs: Tensor | None) -> None:
    """Raise where forward-mode differentiation is under way: torch would return zero tangents without a word."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        raise RuntimeError(
            f"symkern.{op} has no forward-mode derivative (torch.func.jvp, forward_ad); use reverse mode: "
            "torch.autograd.grad, applied twice for Hessian-vector products"
        )

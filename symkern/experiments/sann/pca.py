"""Frames from principal axes, for comparison: the textbook way to normalise a point cloud."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


def pca_frame(x: _Array, *, fix_signs: bool = False) -> _Array:
    """(..., 3, 3) principal axes as columns, largest spread first; canonical positions are (x - mean) @ F.

    Each axis has a sign of its own, so that the frame is one of eight; where two spreads are equal, one of infinitely
    many.

    Args:
        x: (..., N, 3) positions.
        fix_signs: turn each axis so that the third moment along it is positive. Otherwise signs are those that LAPACK
            returns.
    """
    y = x - x.mean(-2, keepdims=True)
    axes: _Array = np.linalg.eigh(np.swapaxes(y, -1, -2) @ y)[1][..., ::-1]
    if fix_signs:
        moments = ((y @ axes) ** 3).sum(-2, keepdims=True)
        axes = axes * np.where(moments < 0, -1.0, 1.0)
    return axes

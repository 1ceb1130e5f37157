from typing import Any

import numpy as np
from numpy.typing import NDArray

def neighbor_list(
    positions: NDArray[np.float64],
    cutoff: float,
    ptr: NDArray[np.int64],
    cell: NDArray[np.float64] | None,
    pbc: NDArray[np.bool_] | None,
    full: bool,
    self_loops: bool,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]: ...
def stabilizers(
    positions: NDArray[np.float64],
    numbers: NDArray[np.int64],
    ptr: NDArray[np.int64],
    tolerance: float,
    policy: int,
    samples: int,
    threads: int,
) -> tuple[NDArray[Any], ...]: ...
def build_info() -> dict[str, Any]: ...

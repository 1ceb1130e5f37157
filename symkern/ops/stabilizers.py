"""Every O(3) operation that maps a molecule to itself."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._check import check_tensor
from symkern._reference import by_reference
from symkern.elements import POLICIES, group_code, group_of_counts
from symkern.neighbors import _checked_ptr
from symkern.stabilizer import Stabilizers

_Array = NDArray[np.float64]
_Key = tuple[tuple[int, ...], int]  # permutation, determinant
_Operations = dict[_Key, tuple[_Array, float]]  # matrix, residual


def stabilizers(
    positions: Tensor,
    numbers: Tensor,
    *,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
    tolerance: float = 0.01,
    policy: str = "closed",
    samples: int = 0,
) -> Stabilizers:
    """All rotations and rotation-reflections about the centroid that map each molecule to itself.

    A permutation p that keeps species is an operation, with determinant +1 or -1, if max_i |R (x_i - c) - (x_p(i) - c)|
    is at most `tolerance`, where c is the unweighted mean of the positions and R the best orthogonal matrix with this
    determinant (Kabsch, Acta Cryst. A32 (1976) 922). The definition mentions no axis and no atom order, so the result
    does not depend on how the molecule lies or is numbered. All decisions are made in fp64 from the given positions.

    All operations are found if no two atoms of one species are closer than 4 `tolerance`: then an atom has one possible
    partner. In other molecules partners are shared out one after the other, to each atom the nearest that is free, and
    what is an operation by these partners is found: always the identity, and the plane of planar molecules, but of
    permutations that differ by an exchange of close atoms usually one.

    Of 48,000 small molecules in a batch none waits for another: they run in parallel on all threads, and results are
    the same bits for any number of threads. No gradient flows through the result.

    Args:
        positions: (N, 3) float32 or float64, Å.
        numbers: (N,) species of each atom, any integer dtype, at least 1. Atomic numbers, or any other labels.
        batch: (N,) int64 molecule of each atom, sorted (as in PyG).
        ptr: (B + 1,) int64 starts of the molecules, instead of `batch`. Without both there is one molecule.
        tolerance: Å, positive. Coordinates that are off by up to e need at least 2 e.
        policy: what to return where the operations within the tolerance form no group, as for molecules that are nearly
            symmetric. "closed": a group among them, grown from the smallest residuals on. "raw": all of them.
            "generate": all their products, also those with a residual above the tolerance. `closed` and `residuals` of
            the result say what happened.
        samples: for linear molecules return this many rotations about the axis and mirror planes through it (times
            identity and inversion for Dinfh), instead of one representative of each coset.

    Returns:
        Stabilizers. C1 (the identity alone), linear molecules, single atoms and empty molecules are answers, no errors.
        `ambiguous` is set where atoms of one species are within 2 `tolerance`.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: wrong shapes, dtypes or devices; positions that are not finite; numbers below 1; a tolerance that is
            not positive and finite, or so large for a molecule that more than 4 million pairs of atoms look alike, that
            matching its atoms takes more than 1e9 distances (one or two seconds; every device counts the same work), or
            that it has more operations than any point group of its atoms; an unknown policy; a batch that is negative
            or not sorted; a ptr that does not run from 0 to N; "generate" where the products outnumber any point group.
    """
    check_tensor("positions", positions, hint="; for NumPy and ASE use symkern.host.point_group")
    check_tensor("numbers", numbers)
    for name, value in (("batch", batch), ("ptr", ptr)):
        if value is not None:
            check_tensor(name, value)
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"numbers must be integers, got {str(numbers.dtype).removeprefix('torch.')}")
    positions, species = positions.detach(), numbers.detach().to(torch.int64)
    if by_reference():
        starts = _checked_ptr(ptr, batch, len(positions), species)
        return reference(positions, species, ptr=starts, tolerance=float(tolerance), policy=policy, samples=samples)
    found = torch.ops.symkern.stabilizers.default(
        positions, species, batch, ptr, float(tolerance), POLICIES.index(policy), int(samples), False
    )
    return _collect(found, positions, species, float(tolerance), policy)


def exhaustive(positions: Tensor, numbers: Tensor, *, ptr: Tensor, tolerance: float, policy: str) -> Stabilizers:
    """`stabilizers` without the shortcut that infers operations as products of others, to test that shortcut."""
    if by_reference():
        return reference(positions, numbers, ptr=ptr, tolerance=tolerance, policy=policy)
    found = torch.ops.symkern.stabilizers.default(
        positions, numbers, None, ptr, tolerance, POLICIES.index(policy), 0, True
    )
    return _collect(found, positions, numbers, tolerance, policy)


def _collect(
    found: tuple[Tensor, ...], positions: Tensor, numbers: Tensor, tolerance: float, policy: str
) -> Stabilizers:
    fields: tuple[Any, ...] = (*found, positions, numbers, tolerance, policy)
    return Stabilizers(*fields)


@fake("stabilizers")
def _(
    positions: Tensor,
    numbers: Tensor,
    batch: Tensor | None,
    ptr: Tensor | None,
    tolerance: float,
    policy: int,
    samples: int,
    exhaustive: bool,
) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    operations, entries = context.new_dynamic_size(), context.new_dynamic_size()
    molecules: int | torch.SymInt = 1
    if ptr is not None:
        molecules = ptr.shape[0] - 1
    elif batch is not None:
        molecules = context.new_dynamic_size()
    long, flag = torch.int64, torch.bool

    def make(*shape: int | torch.SymInt, dtype: torch.dtype = positions.dtype) -> Tensor:
        return positions.new_empty(shape, dtype=dtype)

    return (
        make(operations, 3, 3),
        make(molecules + 1, dtype=long),
        make(entries, dtype=long),
        make(operations + 1, dtype=long),
        make(operations),
        make(molecules, 3),
        make(positions.shape[0], dtype=long),
        make(molecules, dtype=long),
        make(molecules, dtype=long),
        make(molecules, dtype=long),
        make(molecules, 3),
        make(molecules, dtype=flag),
        make(molecules),
        make(molecules, dtype=flag),
        make(molecules + 1, dtype=long),
    )


def reference(
    positions: Tensor,
    numbers: Tensor,
    *,
    ptr: Tensor,
    tolerance: float = 0.01,
    policy: str = "closed",
    samples: int = 0,
) -> Stabilizers:
    """The same from all image pairs in NumPy and fp64, without filters that only save time; for tests."""
    found = []
    bounds = ptr.tolist()
    for begin, end in pairwise(bounds):
        x = positions[begin:end].detach().double().cpu().numpy()
        found.append(_molecule(x, numbers[begin:end].cpu().numpy(), tolerance, policy, samples))
    dtype, device = positions.dtype, positions.device

    def floats(key: str, *shape: int) -> Tensor:
        parts = [np.asarray(f[key], dtype=np.float64).reshape(-1, *shape) for f in found]
        return torch.from_numpy(np.concatenate([np.zeros((0, *shape)), *parts])).to(dtype).to(device)

    def whole(values: list[int], kind: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=kind, device=device)

    counts = [len(f["operations"]) for f in found]
    sizes = [b - a for a, b in pairwise(bounds)]
    per_op = [n for n, g in zip(sizes, counts, strict=True) for _ in range(g)]
    perms = [i + a for f, a in zip(found, bounds[:-1], strict=True) for p in f["permutations"] for i in p]
    orbits = [i + a for f, a in zip(found, bounds[:-1], strict=True) for i in f["orbits"]]
    return Stabilizers(
        floats("operations", 3, 3),
        whole([0, *np.cumsum(counts).tolist()]),
        whole(perms),
        whole([0, *np.cumsum(per_op).tolist()]),
        floats("residuals"),
        floats("centroid", 3),
        whole(orbits),
        whole([f["order"] for f in found]),
        whole([f["group"] for f in found]),
        whole([f["rank"] for f in found]),
        floats("axis", 3),
        whole([f["closed"] for f in found], torch.bool),
        floats("margin"),
        whole([f["ambiguous"] for f in found], torch.bool),
        ptr,
        positions.detach(),
        numbers,
        tolerance,
        policy,
    )


def _molecule(x: _Array, z: NDArray[np.int64], tol: float, policy: str, samples: int) -> dict[str, Any]:
    n = len(x)
    centroid = x.mean(0) if n else np.zeros(3)
    x = x - centroid
    r = np.linalg.norm(x, axis=1)
    pairs = np.linalg.norm(x[:, None] - x, axis=-1) + np.where(np.eye(n) + (z[:, None] != z), np.inf, 0)
    result: dict[str, Any] = {
        "centroid": centroid, "ambiguous": bool((pairs <= 2 * tol).any()), "axis": np.zeros(3), "closed": True,
    }  # fmt: skip
    decisions = [0.0, r.max(initial=0)]
    axes = np.linalg.eigh(x.T @ x)[1]
    off_axis = np.linalg.norm(x - np.outer(x @ axes[:, 2], axes[:, 2]), axis=1).max(initial=0)
    off_plane = np.abs(x @ axes[:, 0]).max(initial=0)
    rank = 0 if r.max(initial=0) <= tol else 1 if off_axis <= tol else 2 if off_plane <= tol else 3
    if rank > 0:
        decisions.append(off_axis)
    identity = (tuple(range(n)), 1)
    if rank < 2:
        operations: _Operations = {identity: (np.eye(3), 0.0)}
        if rank == 1:
            axis = axes[:, 2]
            result["axis"] = axis * np.sign(axis[np.abs(axis).argmax()])
            p = _nearest(-x, x, z, r, tol)
            if len(set(p)) == n:
                # of the operations that turn the line around, the one that fits best
                fits = [-np.eye(3), *(_kabsch(x, tuple(p), det) for det in (-1, 1))]
                fits = [m for m in fits if axis @ m @ axis < 0]
                misses = [np.linalg.norm(x @ m.T - x[list(p)], axis=1).max() for m in fits]
                residual = misses[0] if misses[0] <= tol else min(misses)
                decisions.append(residual)
                if residual <= tol:
                    operations[(p, -1)] = (-np.eye(3), residual)
        result["group"] = group_code("Kh" if rank == 0 else "Dinfh" if len(operations) == 2 else "Cinfv")
        result["order"] = 0
    else:
        seen = _candidates(x, z, r, tol)
        decisions += [residual for _, residual in seen.values()]
        accepted = {key: value for key, value in seen.items() if value[1] <= tol}
        operations, result["closed"] = _apply_policy(accepted, x, policy, tol)
        result["group"] = _label(_apply_policy(accepted, x, "closed" if policy == "raw" else policy, tol)[0])
        result["order"] = len(operations)
    keys = sorted(operations, key=lambda k: (-k[1], k[0]))
    matrices, perms = [operations[k][0] for k in keys], [k[0] for k in keys]
    residuals = [operations[k][1] for k in keys]
    if rank == 1 and samples > 0:
        matrices = [c @ g for c in matrices for g in _about(result["axis"], samples)]
        perms = [p for p in perms for _ in range(2 * samples)]
        residuals = [np.linalg.norm(x @ g.T - x[list(p)], axis=1).max() for g, p in zip(matrices, perms, strict=True)]
    return result | {
        "rank": rank,
        "operations": matrices,
        "permutations": perms,
        "residuals": residuals,
        "orbits": [min(p[i] for p in perms) for i in range(n)],
        "margin": min(tol, *(abs(d - tol) for d in decisions)),
    }


def _about(axis: _Array, count: int) -> list[_Array]:
    """Rotations about an axis and mirror planes through it."""
    u = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    frame = np.stack([u, v, axis], 1)
    made = []
    for sign in (1, -1):
        for k in range(count):
            c, s = np.cos(2 * np.pi * k / count), np.sin(2 * np.pi * k / count)
            made.append(frame @ np.array([[c, -sign * s, 0], [s, sign * c, 0], [0, 0, 1]]) @ frame.T)
    return made


def _nearest(y: _Array, x: _Array, z: NDArray[np.int64], r: _Array, tol: float) -> tuple[int, ...]:
    """The nearest atom of the same species for each point of y; where atoms are close the nearest that is free."""
    apart = np.where(z[:, None] == z, np.linalg.norm(x[:, None] - x, axis=-1), np.inf)
    d = np.where(z[:, None] == z, np.linalg.norm(y[:, None] - x, axis=-1), np.inf)
    if (apart + np.diag(np.full(len(x), np.inf))).min(initial=np.inf) > 4 * tol:
        return tuple(d.argmin(1).tolist())
    d[np.abs(r[:, None] - r) > 2 * tol] = np.inf
    partners = []
    for row in d:
        if not row.min() < np.inf:
            return (0,) * len(x)  # no permutation
        partners.append(int(row.argmin()))
        d[:, partners[-1]] = np.inf
    return tuple(partners)


def _kabsch(x: _Array, p: tuple[int, ...], det: int) -> _Array:
    u, _, v = np.linalg.svd(x[list(p)].T @ x)
    result: _Array = u @ np.diag([1, 1, det * round(np.linalg.det(u) * np.linalg.det(v))]) @ v
    return result


def _candidates(x: _Array, z: NDArray[np.int64], r: _Array, tol: float) -> _Operations:
    """(permutation, det) -> (matrix, residual), for all that may have a residual below twice the tolerance."""
    far = np.flatnonzero(r > 0.3 * r.max())
    alike = (z[:, None] == z) & (np.abs(r[:, None] - r) <= 2 * tol)
    a = min(far, key=lambda i: (alike[i].sum(), i))
    height = np.linalg.norm(np.cross(x, x[a] / r[a]), axis=1)
    distance = np.linalg.norm(x[:, None] - x, axis=-1)

    def images(b: int) -> list[tuple[int, int]]:
        return [
            (i, j)
            for i, j in product(np.flatnonzero(alike[a]).tolist(), np.flatnonzero(alike[b]).tolist())
            if i != j and abs(distance[i, j] - distance[a, b]) <= 4 * tol
        ]

    b = min((b for b in range(len(x)) if height[b] > 0.3 * height.max()), key=lambda b: (len(images(b)), b))
    identity = tuple(range(len(x)))
    plane = _kabsch(x, identity, -1)
    found: _Operations = {
        (identity, 1): (np.eye(3), 0.0),
        (identity, -1): (plane, np.linalg.norm(x @ plane.T - x, axis=1).max()),
    }
    for (i, j), det in product(images(b), (1, -1)):
        target, source = _bisectors(x[i], x[j]), _bisectors(x[a], x[b])
        if target is None or source is None:
            continue
        rotation = target @ np.diag([1, 1, det]) @ source.T
        last, p = None, _nearest(x @ rotation.T, x, z, r, tol)
        for _ in range(5):
            if p == last:
                break
            last, rotation = p, _kabsch(x, p, det)
            p = _nearest(x @ rotation.T, x, z, r, tol)
        if p == last and len(set(p)) == len(p):
            found[(p, det)] = (rotation, np.linalg.norm(x @ rotation.T - x[list(p)], axis=1).max())
    return found


def _bisectors(a: _Array, b: _Array) -> _Array | None:
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    s, d = a + b, a - b
    if min(np.linalg.norm(s), np.linalg.norm(d)) < 1e-6:
        return None
    s, d = s / np.linalg.norm(s), d / np.linalg.norm(d)
    return np.stack([s, d, np.cross(s, d)], 1)


def _compose(g: _Key, h: _Key) -> _Key:
    return tuple(g[0][i] for i in h[0]), g[1] * h[1]


def _generated(keys: set[_Key]) -> set[_Key]:
    group = set(keys)
    while True:
        more = {_compose(g, h) for g in group for h in keys} - group
        if not more:
            return group
        if len(group) > 1000:
            raise ValueError("the operations generate more than 1000")
        group |= more


def _apply_policy(accepted: _Operations, x: _Array, policy: str, tol: float) -> tuple[_Operations, bool]:
    keys = set(accepted)
    closed = all(_compose(g, h) in keys for g in keys for h in keys)
    if closed or policy == "raw":
        return accepted, closed
    if policy == "generate":
        group = _generated(keys)
        made = {}
        for p, det in group:
            rotation = _kabsch(x, p, det)
            made[(p, det)] = rotation, np.linalg.norm(x @ rotation.T - x[list(p)], axis=1).max()
        return made, closed
    identity = (tuple(range(len(x))), 1)
    group = {identity}
    for key in sorted(keys, key=lambda k: (np.rint(accepted[k][1] / tol * 1e8), -k[1], k[0])):
        if key not in group:
            larger = _closure_within(group | {key}, keys)
            group = larger or group
    return {key: accepted[key] for key in group}, closed


def _closure_within(generators: set[_Key], allowed: set[_Key]) -> set[_Key] | None:
    group = set(generators)
    while True:
        more = {_compose(g, h) for g in group for h in group} - group
        if not more:
            return group
        if not more <= allowed:
            return None
        group |= more


def _label(operations: _Operations) -> int:
    matrices = [m for m, _ in operations.values()]
    keys = list(operations)
    identity = (tuple(range(len(keys[0][0]))), 1)

    def element_order(key: _Key) -> int:
        power, n = key, 1
        while power != identity:
            power, n = _compose(key, power), n + 1
        return n

    proper = [k for k in keys if k[1] > 0]
    involutions = [np.trace(m) for k, m in zip(keys, matrices, strict=True) if k[1] < 0 and _compose(k, k) == identity]
    mirrors = sum(t > -1 for t in involutions)
    top = max(element_order(k) for k in proper)
    return group_of_counts(len(operations), len(proper), top, mirrors, len(involutions) - mirrors)

"""Canonical frames: coordinates of a molecule that do not depend on how it lies in space."""

from __future__ import annotations

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._check import check_instance, check_tensor, whole
from symkern._reference import by_reference
from symkern.canonical import Canonical, rotated
from symkern.ops.segment_sum import segment_mean
from symkern.ops.stabilizers import stabilizers
from symkern.stabilizer import Stabilizers


def canonical_frames(
    positions: Tensor,
    numbers: Tensor,
    *,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
    tolerance: float = 0.01,
    proper: bool = False,
    sym: Stabilizers | None = None,
) -> Tensor:
    """An orthogonal matrix F for each molecule, so that (x - centroid) @ F is the same set of atoms however it lies.

    Rotations, translations and the order of atoms do not change the canonical form; reflections neither, unless
    `proper`. Frames are relaxed equivariant: F(g x) = g s F(x) with s an operation of the molecule (Kaba and
    Ravanbakhsh, "Symmetry breaking and equivariant neural networks", 2023).

    The molecule is first made exactly symmetric: atoms and operations are averaged over the group. z goes through an
    atom of the best-ranked orbit: of those not near the centroid the smallest, then the heaviest, the farthest out, the
    one with the largest mean distance to all atoms. x goes towards the best-ranked second atom, by how many operations
    keep the pair, its species, its distance from z, its radius. Both hands count. What ties is decided by smooth
    functions sum_i sqrt(Z_i) cos(k_m . y_i + m) of the coordinates y in the frame; frames that differ by an operation
    of the molecule by the same functions of the positions as given. Linear molecules have their axis along z, single
    atoms the identity. Differences below 1e-9 (fp32 positions: 2e-5) of the largest radius count as ties, and decisions
    are made in fp64.

    F is piecewise smooth in the positions: where the ranking changes it jumps, which no continuous choice could avoid.
    `Canonical.gap` tells how near that is. No gradient flows through F.

    Args:
        positions: (N, 3) float32 or float64, Å.
        numbers: (N,) atomic numbers, any integer dtype.
        batch: (N,) int64 molecule of each atom, sorted.
        ptr: (B + 1,) int64 starts of the molecules, instead of `batch`.
        tolerance: Å, of the symmetry operations; see `symkern.stabilizers`.
        proper: det F = +1, so that mirror images keep forms of their own.
        sym: stabilizers of these molecules, if they are known already (`batch`, `ptr` and `tolerance` are then those
            that it was made with).

    Returns:
        (B, 3, 3) in the dtype of `positions`.

    Raises:
        TypeError, ValueError: as `symkern.stabilizers`; a `sym` of other atoms, or whose operations need not be a group
            (policy "raw").
    """
    if by_reference():
        from symkern.testing.frames import reference  # which is built on ops

        given, numbers = positions.detach(), whole("numbers", numbers)
        return reference(given, numbers, batch=batch, ptr=ptr, tolerance=tolerance, proper=proper, sym=sym)
    return _solve(positions, numbers, batch, ptr, tolerance, proper, sym)[0]


def canonicalize(
    positions: Tensor,
    numbers: Tensor,
    *,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
    tolerance: float = 0.01,
    proper: bool = False,
    sym: Stabilizers | None = None,
) -> Canonical:
    """Molecules in their canonical frames. Arguments and errors as `canonical_frames`.

    Returns:
        Canonical: frames, canonical positions, ranking gap, ranks of orbits, and `apply` and `restore` for vectors.
        ``gap`` is the smallest difference, in Å, that decided the ranking of inequivalent frames: of radii, of heights,
        half of mean distances, of the smooth functions by their largest slope, and of lengths from the threshold below
        which an atom is not used. It is infinite where nothing but species and counts decided. Positions that move by
        much less keep their frame, up to operations of the molecule.
    """
    frames, gap, orbit_rank, sym = _solve(positions, numbers, batch, ptr, tolerance, proper, sym)
    owner = sym.batch
    centered = positions - segment_mean(positions, sym.ptr)[owner]
    canonical = rotated(centered, frames[owner])
    return Canonical(frames, canonical, gap, orbit_rank, sym)


def asymmetric_unit(sym: Stabilizers) -> Tensor:
    """One atom of each orbit: (O,) int64, the smallest atom index of each, ascending.

    The operations carry these atoms to all others, so that they and `sym` describe the molecules completely.
    """
    check_instance("sym", sym, Stabilizers, "symkern.stabilizers")
    atoms = torch.arange(sym.orbits.shape[0], device=sym.orbits.device)
    return atoms[sym.orbits == atoms]


def _solve(
    positions: Tensor,
    numbers: Tensor,
    batch: Tensor | None,
    ptr: Tensor | None,
    tolerance: float,
    proper: bool,
    sym: Stabilizers | None,
) -> tuple[Tensor, Tensor, Tensor, Stabilizers]:
    check_tensor("positions", positions)
    check_tensor("numbers", numbers)
    numbers = whole("numbers", numbers)
    if sym is None:
        sym = stabilizers(positions.detach(), numbers, batch=batch, ptr=ptr, tolerance=tolerance)
    check_instance("sym", sym, Stabilizers, "symkern.stabilizers")
    if sym.policy == "raw":
        raise ValueError('sym must hold groups: made with policy "closed" or "generate", got "raw"')
    if sym.orbits.shape[0] != positions.shape[0]:
        raise ValueError(f"sym must be of these {positions.shape[0]} atoms, got one of {sym.orbits.shape[0]}")
    # on CUDA the comparison would have to wait for the device
    comparable = not (positions.is_cuda or torch.compiler.is_compiling()) and sym.positions.dtype == positions.dtype
    if comparable and sym.positions.shape == positions.shape and not torch.equal(sym.positions, positions.detach()):
        raise ValueError("sym must be of these positions, got one of others: make it anew when atoms have moved")
    frames, gap, orbit_rank = torch.ops.symkern.canonical_frames.default(
        positions.detach(),
        numbers,
        sym.ptr,
        sym.operations,
        sym.op_ptr,
        sym.permutations,
        sym.perm_ptr,
        sym.orbits,
        sym.rank,
        sym.axis,
        proper,
    )
    return frames, gap, orbit_rank, sym


@fake("canonical_frames")
def _(
    positions: Tensor,
    numbers: Tensor,
    ptr: Tensor,
    operations: Tensor,
    op_ptr: Tensor,
    permutations: Tensor,
    perm_ptr: Tensor,
    orbits: Tensor,
    rank: Tensor,
    axis: Tensor,
    proper: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    molecules = ptr.shape[0] - 1
    return positions.new_empty((molecules, 3, 3)), positions.new_empty((molecules,)), torch.empty_like(numbers)

"""The stabilizers of a batch of molecules: every O(3) operation that maps a molecule to itself, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symkern.elements import FAMILIES as FAMILIES
from symkern.elements import Element, elements_of, site_symmetry_of
from symkern.elements import group_code as group_code
from symkern.elements import group_label as group_label


@dataclass(eq=False, repr=False)
class Stabilizers:
    """Symmetry operations of B molecules with N atoms and G operations in all, made by `symkern.stabilizers`.

    ``sym[b]`` are those of one molecule, with atoms counted from its first; ``len(sym)`` is B.

    Attributes:
        operations: (G, 3, 3) orthogonal matrices that act on column vectors about the centroid: R_g (x_i - c) is
            x_p(i) - c to within `residuals`. In each molecule proper operations come first, then improper ones, each in
            lexicographic order of their permutations: the identity is the first.
        op_ptr: (B + 1,) int64; molecule b has the operations op_ptr[b] .. op_ptr[b + 1].
        permutations: (sum of G_b N_b,) int64 global atom indices: operation g of molecule b sends atom i to
            permutations[perm_ptr[g] + i - ptr[b]].
        perm_ptr: (G + 1,) int64.
        residuals: (G,) max_i |R_g (x_i - c) - (x_p(i) - c)|, Å. For the inversion of a linear molecule, which stands
            for all operations that turn the line around, that of the one that fits best.
        centroid: (B, 3) unweighted mean of the positions, Å.
        orbits: (N,) int64 smallest global index among the atoms that operations send each atom to.
        order: (B,) int64 number of operations; 0 for continuous groups (linear molecules, single atoms, no atoms).
        group: (B,) int64 codes; `labels` has the Schoenflies symbols. Where policy "raw" kept operations that form no
            group (`closed` is False), of the largest group found among them.
        rank: (B,) int64 of the centred positions: 0 point, 1 line, 2 plane, 3.
        axis: (B, 3) unit vector along linear molecules, zero for others.
        closed: (B,) bool whether the operations within the tolerance formed a group.
        margin: (B,) Å, how far `tolerance` is from the nearest value that decided something: if it is small, a slightly
            different tolerance gives a different answer.
        ambiguous: (B,) bool: two atoms of one species are closer than twice the tolerance, so that permutations need
            not be unique.
        ptr: (B + 1,) int64; molecule b owns the atoms ptr[b] .. ptr[b + 1].
        positions, numbers: as given, without gradient.
        tolerance, policy: as given.
    """

    operations: Tensor
    op_ptr: Tensor
    permutations: Tensor
    perm_ptr: Tensor
    residuals: Tensor
    centroid: Tensor
    orbits: Tensor
    order: Tensor
    group: Tensor
    rank: Tensor
    axis: Tensor
    closed: Tensor
    margin: Tensor
    ambiguous: Tensor
    ptr: Tensor
    positions: Tensor
    numbers: Tensor
    tolerance: float
    policy: str

    @property
    def num_structures(self) -> int:
        return self.op_ptr.shape[0] - 1

    def __len__(self) -> int:
        return self.num_structures

    def __getitem__(self, index: int) -> Stabilizers:
        """The stabilizers of one molecule, with atoms counted from its first; waits for the device."""
        count = self.num_structures
        if not -count <= index < count:
            raise IndexError(f"index must be {-count} .. {count - 1}, got {index}")
        b = slice(index % count, index % count + 1)
        begin, end = self.ptr[b.start : b.stop + 1].tolist()
        first, last = self.op_ptr[b.start : b.stop + 1].tolist()
        low, high = self.perm_ptr[[first, last]].tolist()
        atoms, operations = slice(begin, end), slice(first, last)
        return Stabilizers(
            operations=self.operations[operations],
            op_ptr=self.op_ptr[b.start : b.stop + 1] - first,
            permutations=self.permutations[low:high] - begin,
            perm_ptr=self.perm_ptr[first : last + 1] - low,
            residuals=self.residuals[operations],
            centroid=self.centroid[b],
            orbits=self.orbits[atoms] - begin,
            order=self.order[b],
            group=self.group[b],
            rank=self.rank[b],
            axis=self.axis[b],
            closed=self.closed[b],
            margin=self.margin[b],
            ambiguous=self.ambiguous[b],
            ptr=self.ptr[b.start : b.stop + 1] - begin,
            positions=self.positions[atoms],
            numbers=self.numbers[atoms],
            tolerance=self.tolerance,
            policy=self.policy,
        )

    @property
    def num_operations(self) -> int:
        return self.operations.shape[0]

    @property
    def labels(self) -> list[str]:
        """Schoenflies symbols, see `group`: C1 Cs Ci C2v D6h S4 Td Oh Ih Cinfv Dinfh Kh ..."""
        return [group_label(code) for code in self.group.tolist()]

    @property
    def batch(self) -> Tensor:
        """(N,) int64 molecule of each atom."""
        molecules = torch.arange(self.num_structures, device=self.ptr.device)
        return torch.repeat_interleave(molecules, self.ptr.diff(), output_size=self.positions.shape[0])

    @property
    def op_batch(self) -> Tensor:
        """(G,) int64 molecule of each operation."""
        molecules = torch.arange(self.num_structures, device=self.ptr.device)
        return torch.repeat_interleave(molecules, self.op_ptr.diff(), output_size=self.num_operations)

    @cached_property
    def elements(self) -> list[list[Element]]:
        """The symmetry elements of each molecule, one for each operation and in their order: see `Element`."""
        return [elements_of(r, p, code) for _, r, p, _, code in self._molecules()]

    @cached_property
    def site_symmetry(self) -> list[list[tuple[int, str]]]:
        """For each molecule and orbit: its smallest global atom index and the Schoenflies symbol of that site."""
        return [
            [(begin + atom, label) for atom, label in site_symmetry_of(elements, p, orbits, code)]
            for (begin, _, p, orbits, code), elements in zip(self._molecules(), self.elements, strict=True)
        ]

    def _molecules(self) -> list[tuple[int, NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], int]]:
        """First atom, operations, local permutations (G, N), local orbits and group code of each molecule."""
        operations = self.operations.double().cpu().numpy()
        permutations, orbits = self.permutations.cpu().numpy(), self.orbits.cpu().numpy()
        ptr, op_ptr, group, entry = self.ptr.tolist(), self.op_ptr.tolist(), self.group.tolist(), 0
        found = []
        for b, code in enumerate(group):
            begin, atoms = ptr[b], ptr[b + 1] - ptr[b]
            count = op_ptr[b + 1] - op_ptr[b]
            p = permutations[entry : entry + count * atoms].reshape(count, atoms) - begin
            found.append((begin, operations[op_ptr[b] : op_ptr[b + 1]], p, orbits[begin : begin + atoms] - begin, code))
            entry += count * atoms
        return found

    def to(self, device: torch.device | str) -> Stabilizers:
        """A copy on `device`."""
        return self._map(lambda x: x.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Stabilizers:
        values: list[Any] = [getattr(self, f.name) for f in fields(self)]
        changed: list[Any] = [change(v) if isinstance(v, Tensor) else v for v in values]
        return Stabilizers(*changed)

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:6]) + (", ..." if self.num_structures > 6 else "")
        return f"Stabilizers({self.num_structures} molecules, {self.num_operations} operations: {shown})"

"""Forces and stress from a model's energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors


def energy_and_forces(
    model: Callable[..., Tensor],
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    nb: Neighbors | None = None,
    stress: bool = False,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Energy, forces F_i = -dE/dr_i and, if asked for, the stress (dE / d strain) / volume.

    The strain e deforms atoms and cell alike: r -> r (1 + e), cell -> cell (1 + e), with e symmetric. Signs and order
    of the stress are those of ASE before Voigt's notation: negative under pressure. Works inside `torch.no_grad`.

    Args:
        model: called as ``model(z, pos, batch, cell=, pbc=, nb=)``; gives (B, 1) or (B,) energies.
        z: (N,) int64 atomic numbers.
        pos: (N, 3) Å.
        batch: (N,) int64 structure of each atom, sorted; None for one structure.
        cell: (3, 3) or (B, 3, 3), Å.
        pbc, nb: see `symkern.neighbor_list`.
        stress: also compute the stress; needs `cell`.
        create_graph: keep the graph, so that a loss of the forces can be differentiated (training). Without it the
            results are detached. A model behind torch.compile cannot be trained so: torch differentiates what it
            compiled only once, and raises RuntimeError in the loss's backward pass.

    Returns:
        (B,) energies in the model's unit, (N, 3) forces in that unit / Å, and with `stress` (B, 3, 3) in unit / Å^3.

    Raises:
        ValueError: a model with more than one output per structure; `stress` without a cell, or with one whose volume
            is zero; what the model raises.
    """
    if torch.is_inference_mode_enabled():
        # inference tensors take no part in derivatives: their copies do
        with torch.inference_mode(False):
            arguments = {"cell": _usable(cell), "pbc": _usable(pbc), "nb": None if nb is None else nb._map(_copied)}
            z, pos, batch = _copied(z), _copied(pos), _usable(batch)
            return energy_and_forces(model, z, pos, batch, **arguments, stress=stress, create_graph=create_graph)
    with torch.enable_grad():
        points = pos if create_graph and pos.requires_grad else pos.detach().requires_grad_()
        at, box, strain = points, cell, None
        if stress:
            at, box, strain = _strained(points, batch, cell, nb)
        energy = _per_structure(model(z, at, batch, cell=box, pbc=pbc, nb=nb), _num_structures(batch, cell, nb))
        inputs = [points] if strain is None else [points, strain]
        if energy.requires_grad:
            # single atoms have no edges: their energies depend on no position
            found = torch.autograd.grad(
                energy.sum(), inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
        else:
            found = tuple(torch.zeros_like(x) for x in inputs)
    results = (energy if create_graph else energy.detach(), -found[0])
    if strain is None:
        return results
    assert box is not None
    volume = torch.linalg.det(box.detach()).abs()
    return (*results, found[1] / volume[:, None, None])


def _strained(
    pos: Tensor, batch: Tensor | None, cell: Tensor | None, nb: Neighbors | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms and cells (B, 3, 3) as functions of a strain (B, 3, 3) that is zero."""
    if cell is None:
        raise ValueError("stress needs a cell: a molecule without one has no volume")
    count = _num_structures(batch, cell, nb)
    if count is None:
        count = int(batch[-1]) + 1 if batch is not None and len(batch) else 0
    cells = cell.expand(count, 3, 3)
    if bool((torch.linalg.det(cells.detach()) == 0).any()):
        raise ValueError("stress needs cells with a volume, but a cell's lattice vectors are linearly dependent")
    strain = torch.zeros_like(cells).requires_grad_()
    deform = (strain + strain.transpose(1, 2)) / 2
    own = deform.expand(len(pos), 3, 3) if batch is None else deform[batch]
    moved = pos + (pos.unsqueeze(1) @ own).squeeze(1)
    return moved, cells + cells @ deform, strain


def _num_structures(batch: Tensor | None, cell: Tensor | None, nb: Neighbors | None) -> int | None:
    """As far as it is known without reading the batch."""
    if nb is not None:
        return nb.num_structures
    if cell is not None and cell.dim() == 3:
        return cell.shape[0]
    return 1 if batch is None else None


def _copied(x: Tensor) -> Tensor:
    return x.clone() if x.is_inference() else x


def _usable(x: Any) -> Any:
    return _copied(x) if isinstance(x, Tensor) else x


def _per_structure(energy: Any, count: int | None) -> Tensor:
    if not isinstance(energy, Tensor):
        raise TypeError(f"model must return a tensor of energies, got {type(energy)}")
    fits = energy.dim() == 1 or (energy.dim() == 2 and energy.shape[1] == 1)
    if not fits or count not in (None, energy.shape[0]):
        known = "" if count is None else f" with B = {count}"
        raise ValueError(
            f"model must give one energy per structure, (B, 1) or (B,){known}, got shape {tuple(energy.shape)}"
        )
    return energy.reshape(-1)

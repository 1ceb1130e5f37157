"""Symmetry stored on graphs: computed once per molecule, collated by PyG's loader, rebuilt for a whole batch."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from symkern.data.batch import Batch
from symkern.ops.stabilizers import stabilizers
from symkern.stabilizer import Stabilizers

T = TypeVar("T")

# Names decide how PyG collates: it concatenates all, and adds the number of preceding atoms to names with "index".
# Pointers would need offsets that PyG does not know of, so counts are stored and summed up afterwards.
_PLAIN = ("operations", "residuals", "centroid", "order", "group", "rank", "axis", "closed", "margin", "ambiguous")
ATTRIBUTES = (
    *(f"sym_{name}" for name in _PLAIN),
    "sym_perm_index",
    "sym_orbit_index",
    "sym_op_count",
    "sym_atom_count",
    "sym_pos",
    "sym_z",
    "sym_settings",
)


class AddSymmetry:
    """A transform that finds the symmetry of a molecule once and stores it on the PyG ``Data``.

    As ``pre_transform`` of a dataset it runs once per molecule ever. It works on anything with attributes ``pos``
    (N, 3), Å, and ``z`` (N,), on a PyG ``Batch`` too; torch_geometric is not imported. `stabilizers_of` gives the
    `symkern.Stabilizers` back, of a molecule or of a collated batch, without computing anything again.

    Stored are tensors named ``sym_...`` (`symkern.transforms.ATTRIBUTES`), with the positions and numbers they belong
    to. A second application with the same settings on the same positions does nothing; where either differs, it
    computes anew. Transforms that move or select atoms belong before this one: see `stabilizers_of`.

    On an ``ase.Atoms`` it gives a copy with ``info["point_group"]``, ``info["symmetry_order"]`` (0: continuous),
    ``info["symmetry_tolerance"]`` and ``arrays["orbits"]`` (smallest index of each atom's orbit), which ASE's formats
    keep; for operations and permutations take `from_ase`.

    Args:
        tolerance: Å, as in `symkern.stabilizers`.
        policy: "closed", "raw" or "generate", as in `symkern.stabilizers`.
        samples: of linear molecules, as in `symkern.stabilizers`.

    Raises:
        TypeError: when called on something without ``pos`` and ``z``.
        ValueError: as `symkern.stabilizers`.
    """

    def __init__(self, tolerance: float = 0.01, policy: str = "closed", samples: int = 0) -> None:
        self.tolerance, self.policy, self.samples = float(tolerance), policy, int(samples)
        stabilizers(
            torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), **self._settings()
        )  # refuses bad settings now

    def __call__(self, data: T) -> T:
        """A shallow copy of `data` with its symmetry; `data` itself stays as it is."""
        if _is_atoms(data):
            annotated: T = self._annotated(data)
            return annotated
        if isinstance(data, Batch):
            raise TypeError("data is a symkern.data.Batch b: call symkern.stabilizers(b.pos, b.z, ptr=b.ptr)")
        pos, z = getattr(data, "pos", None), getattr(data, "z", None)
        for name, value in (("pos", pos), ("z", z)):
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"data must have a tensor {name} ((N, 3) positions as pos, Å; (N,) atomic numbers as z), "
                    f"got a {type(data).__name__} with {name} = {_kind(value)}"
                )
        assert isinstance(pos, Tensor)
        assert isinstance(z, Tensor)
        if self._is_stored(data, pos, z):
            return data
        ptr, batch = getattr(data, "ptr", None), getattr(data, "batch", None)
        sym = stabilizers(pos, z, ptr=ptr, batch=batch if ptr is None else None, **self._settings())
        made = copy.copy(data)
        for name in _PLAIN:
            setattr(made, f"sym_{name}", getattr(sym, name))
        stored: Any = made
        stored.sym_perm_index, stored.sym_orbit_index = sym.permutations, sym.orbits
        stored.sym_op_count, stored.sym_atom_count = sym.op_ptr.diff(), sym.ptr.diff()
        stored.sym_pos, stored.sym_z = pos.detach().clone(), z.clone()
        stored.sym_settings = json.dumps(self._settings())  # a string: PyG makes lists of them, which stay on the host
        return made

    def __repr__(self) -> str:
        more = "".join(
            f", {k}={v!r}" for k, v in self._settings().items() if k != "tolerance" and v not in ("closed", 0)
        )
        return f"AddSymmetry(tolerance={self.tolerance:g}{more})"

    def _settings(self) -> dict[str, Any]:
        return {"tolerance": self.tolerance, "policy": self.policy, "samples": self.samples}

    def _is_stored(self, data: Any, pos: Tensor, z: Tensor) -> bool:
        if any(getattr(data, name, None) is None for name in ATTRIBUTES):
            return False
        same = set(_listed(data.sym_settings)) == {json.dumps(self._settings())}
        return same and _equal(pos, data.sym_pos) and _equal(z, data.sym_z)

    def _annotated(self, atoms: Any) -> Any:
        sym = from_ase(atoms, **self._settings())
        made = atoms.copy()
        made.calc = atoms.calc
        made.info |= {
            "point_group": sym.labels[0],
            "symmetry_order": int(sym.order[0]),
            "symmetry_tolerance": self.tolerance,
        }
        made.set_array("orbits", sym.orbits.numpy())
        return made


def stabilizers_of(data: Any, *, check: bool = True) -> Stabilizers:
    """The `symkern.Stabilizers` that `AddSymmetry` stored on a PyG ``Data``, or on each molecule of a ``Batch``.

    Args:
        data: a ``Data``, or a ``Batch`` of them as PyG's ``DataLoader`` makes it; on any device.
        check: compare ``data.pos`` and ``data.z`` with what the symmetry was computed from (on CUDA this waits for the
            device). Without, the result belongs to the stored positions even if the atoms have moved since, as one
            wants for a network that removes noise.

    Raises:
        TypeError: a ``symkern.data.Batch`` or ``ase.Atoms``, which hold no stored operations.
        ValueError: nothing is stored; the molecules were made with different settings; the atoms have changed.
    """
    if isinstance(data, Batch):
        raise TypeError("data is a symkern.data.Batch b: call symkern.stabilizers(b.pos, b.z, ptr=b.ptr)")
    if _is_atoms(data):
        raise TypeError("data is an ase.Atoms: call symkern.transforms.from_ase(atoms)")
    missing = [name for name in ATTRIBUTES if getattr(data, name, None) is None]
    if missing:
        some = f" ({', '.join(missing)})" if len(missing) < len(ATTRIBUTES) else ""
        raise ValueError(f"data has no stored symmetry{some}: apply symkern.transforms.AddSymmetry first")
    settings = sorted(set(_listed(data.sym_settings)))
    if len(settings) > 1:
        raise ValueError(f"molecules of one batch must have the same settings, got {' and '.join(settings)}")
    found = json.loads(settings[0])
    ptr, op_ptr = _pointers(data.sym_atom_count), _pointers(data.sym_op_count)
    pos, z = data.sym_pos, data.sym_z
    if check:
        for name, now, then in (("pos", getattr(data, "pos", pos), pos), ("z", getattr(data, "z", z), z)):
            if not _equal(now, then):
                raise ValueError(
                    f"data.{name} must be what AddSymmetry saw, but has changed since: apply AddSymmetry after the "
                    "transforms that change atoms, or give check=False for the symmetry of the positions it saw"
                )
    if data.sym_operations.shape[0] == 0:
        per_op = data.sym_op_count.new_zeros(0)
    else:
        per_op = torch.repeat_interleave(
            data.sym_atom_count, data.sym_op_count, output_size=data.sym_operations.shape[0]
        )
    plain = {name: getattr(data, f"sym_{name}") for name in _PLAIN}
    return Stabilizers(
        **plain,
        op_ptr=op_ptr,
        permutations=data.sym_perm_index,
        perm_ptr=_pointers(per_op),
        orbits=data.sym_orbit_index,
        ptr=ptr,
        positions=pos,
        numbers=z,
        tolerance=found["tolerance"],
        policy=found["policy"],
    )


def from_ase(
    atoms: Any,
    *,
    tolerance: float = 0.01,
    policy: str = "closed",
    samples: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Stabilizers:
    """`symkern.stabilizers` of an ``ase.Atoms`` or of a sequence of them, in one call.

    The cell and the periodic boundary conditions are ignored: these are the symmetries of a molecule.

    Args:
        atoms: one ``ase.Atoms``, or a sequence of them, such as ``ase.io.read(file, ":")``.
        tolerance, policy, samples: as in `symkern.stabilizers`.
        dtype, device: of the result.

    Raises:
        TypeError: not ``ase.Atoms``.
        ValueError: as `symkern.stabilizers`.
    """
    frames: Sequence[Any] = [atoms] if _is_atoms(atoms) else list(atoms)
    for k, frame in enumerate(frames):
        if not _is_atoms(frame):
            raise TypeError(f"atoms must be ase.Atoms or a sequence of them, got a {type(frame).__name__} at {k}")
    positions = [torch.as_tensor(frame.get_positions(), dtype=dtype) for frame in frames]
    numbers = [torch.as_tensor(frame.get_atomic_numbers(), dtype=torch.int64) for frame in frames]
    return stabilizers(
        torch.cat([torch.zeros(0, 3, dtype=dtype), *positions]).to(device),
        torch.cat([torch.zeros(0, dtype=torch.int64), *numbers]).to(device),
        ptr=_pointers(torch.tensor([len(frame) for frame in frames], dtype=torch.int64)).to(device),
        tolerance=tolerance,
        policy=policy,
        samples=samples,
    )


def _pointers(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _equal(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.dtype == b.dtype and a.device == b.device and torch.equal(a.detach(), b)


def _listed(settings: str | list[str]) -> list[str]:
    return [settings] if isinstance(settings, str) else list(settings)


def _is_atoms(value: Any) -> bool:
    return hasattr(value, "get_positions") and hasattr(value, "get_atomic_numbers")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"

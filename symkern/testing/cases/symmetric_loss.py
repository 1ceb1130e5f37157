from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from symkern.ops import symmetric_chamfer, symmetric_loss, symmetric_mse
from symkern.ops.segment_sum import segment_sum
from symkern.ops.stabilizers import stabilizers
from symkern.ops.symmetric_action import act
from symkern.stabilizer import Stabilizers
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_rotation, shuffle_within

# numbers and positions, Å: a point group each
_MOLECULES: dict[str, tuple[list[int], list[list[float]]]] = {
    "nothing": ([], []),
    "atom": ([2], [[0.3, 0.1, 0]]),
    "HCl": ([17, 1], [[0, 0, 0.1], [0, 0.3, 1.35]]),
    "CO2": ([6, 8, 8], [[0, 0, 0], [0.7, 0.7, 0.6], [-0.7, -0.7, -0.6]]),
    "water": ([8, 1, 1], [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]]),
    "square": ([6, 6, 6, 6], [[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]),
    "methane": ([6, 1, 1, 1, 1], [[0, 0, 0], [0.63, 0.63, 0.63], [0.63, -0.63, -0.63], [-0.63, 0.63, -0.63],
                                  [-0.63, -0.63, 0.63]]),
    "chiral": ([6, 1, 9, 17, 35], [[0, 0, 0.02], [0, 0, 1.09], [1.3, 0, -0.4], [-0.9, 1.5, -0.5], [-0.9, -1.6, -0.6]]),
    "octahedron": ([16, *[9] * 6], [[0, 0, 0], [1.56, 0, 0], [-1.56, 0, 0], [0, 1.56, 0], [0, -1.56, 0], [0, 0, 1.56],
                                    [0, 0, -1.56]]),
}  # fmt: skip


def molecules(*names: str, samples: int = 0) -> Callable[[int], Stabilizers]:
    """Stabilizers of these molecules, turned at random."""

    def make(seed: int) -> Stabilizers:
        random = generator(seed)
        rows = [torch.tensor(_MOLECULES[name][1], dtype=torch.float64).reshape(-1, 3) for name in names]
        turned = [x @ random_rotation(random).T + torch.randn(3, generator=random, dtype=x.dtype) for x in rows]
        numbers = [torch.tensor(_MOLECULES[name][0], dtype=torch.int64) for name in names]
        ptr = torch.tensor([0, *(len(x) for x in rows)]).cumsum(0)
        positions = torch.cat([torch.zeros(0, 3, dtype=torch.float64), *turned])
        return stabilizers(
            positions, torch.cat([numbers[0][:0] if names else ptr[:0], *numbers]), ptr=ptr, samples=samples
        )

    return make


def cast_floats(sym: Stabilizers, dtype: torch.dtype) -> Stabilizers:
    return sym._map(lambda t: t.to(dtype) if t.is_floating_point() else t)


def rows(names: tuple[str, ...], samples: int = 0, **options: Any) -> Builder:
    make_sym = molecules(*names, samples=samples)

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        sym = cast_floats(make_sym(seed), dtype).to(device)
        random = generator(seed + 100)
        pred, target = (torch.randn(len(sym.positions), 3, generator=random, dtype=torch.float64) for _ in range(2))
        return {"pred": pred.to(dtype).to(device), "target": target.to(dtype).to(device), "sym": sym, **options}

    return make


_RAGGED = ("water", "nothing", "square", "CO2", "chiral")
_LINEAR = ("CO2", "atom", "HCl", "nothing", "water")
_ALL = tuple(_MOLECULES)


def _samples(**options: Any) -> dict[str, Builder]:
    return {
        "empty": rows((), **options),
        "one": rows(("atom",), **options),
        "ragged": rows(_RAGGED, **options),
        "finite": rows(("water", "methane", "nothing", "square"), **options),
        "pseudovectors": rows(_LINEAR, kind="pseudovector", **options),
        "pseudovectors, finite": rows(("methane", "water"), kind="pseudovector", **options),
        "points": rows((*_LINEAR, "square"), kind="point", **options),
        "sampled": rows(_LINEAR, samples=3, **options),
        "large": rows((*_ALL, *_ALL), **options),
    }


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Molecules, predictions and targets turn and are mirrored together; pseudovectors turn with the determinant."""
    sym, kind = inputs["sym"], inputs.get("kind", "vector")
    rotation = -random_rotation(random).to(inputs["pred"])
    shift = torch.randn(3, generator=random, dtype=torch.float64).to(inputs["pred"]) if kind == "point" else 0
    sign = -1 if kind == "pseudovector" else 1
    turned = stabilizers(sym.positions @ rotation.T + shift, sym.numbers, ptr=sym.ptr)
    assert torch.equal(turned.permutations, sym.permutations)
    changed = {name: sign * inputs[name] @ rotation.T + shift for name in ("pred", "target")}
    return {**inputs, **changed, "sym": turned}, lambda outputs: outputs


def _reorder(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Atoms change places; the order of operations follows from that of the atoms, so `which` may change."""
    sym = inputs["sym"]
    order = shuffle_within(sym.ptr, random)
    moved = stabilizers(sym.positions[order], sym.numbers[order], ptr=sym.ptr)
    changed = {name: inputs[name][order] for name in ("pred", "target")}

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        place = order.argsort()
        found = []
        for b, g in enumerate(outputs[1].tolist()):
            begin, end = sym.ptr[b : b + 2].tolist()
            start = int(sym.perm_ptr[int(sym.op_ptr[b]) + g])
            image = place[sym.permutations[start : start + end - begin][order[begin:end] - begin]]
            det = sym.operations[int(sym.op_ptr[b]) + g].det().sign()
            found.append(_find(moved, b, image, det))
        return outputs[0], sym.ptr.new_tensor(found)

    return {**inputs, **changed, "sym": moved}, expected


def _find(sym: Stabilizers, b: int, image: Tensor, det: Tensor) -> int:
    for g in range(*sym.op_ptr[b : b + 2].tolist()):
        same = torch.equal(sym.permutations[sym.perm_ptr[g] : sym.perm_ptr[g + 1]], image)
        if same and sym.operations[g].det().sign() == det:
            return g - int(sym.op_ptr[b])
    raise AssertionError("the operation is gone")


def _arguments(inputs: Inputs) -> tuple[Any, ...]:
    sym = inputs["sym"]
    action = act("", inputs["pred"], inputs["target"], sym, inputs.get("kind", "vector"))
    tensors = (action.pred, action.target, action.matrices, sym.op_ptr, sym.permutations, sym.perm_ptr, sym.ptr)
    return (*(t.detach() for t in tensors), action.copies)


def _mse_ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    arguments = _arguments(inputs)
    pred, _, matrices, *_, ptr, copies = arguments
    return [
        (torch.ops.symkern.symmetric_mse.default, arguments),
        (torch.ops.symkern.rotate_rows.default, (pred, matrices, inputs["sym"].op_ptr[:-1] * copies, ptr, True)),
    ]


def _chamfer_ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    *tensors, copies = _arguments(inputs)
    return [(torch.ops.symkern.symmetric_chamfer.default, (*tensors, inputs["sym"].numbers, copies, 2))]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = rows(("water", "CO2"))(torch.float32, "cpu", 0)
        return inputs | {k: change(inputs.get(k)) if callable(change) else change for k, change in changes.items()}

    return BadInput(name, make, error, match)


_BAD = (
    _bad("flat", r"pred must have shape \(N, 3\), got \(18,\)", pred=lambda x: x.flatten()),
    _bad("integers", "pred must be float32, float64, float16 or bfloat16, got int64", pred=lambda x: x.long()),
    _bad("rows", r"target must have the shape of pred, \(6, 3\), got \(5, 3\)", target=lambda x: x[1:]),
    _bad("mixed", "target must be float32, as pred is, got float64", target=lambda x: x.double()),
    _bad("kind", "kind must be one of 'vector', 'pseudovector', 'point', got 'axial'", kind="axial"),
    _bad("other batch", "sym must be the stabilizers of the 5 atoms of pred, got those of 6",
         pred=lambda x: x[1:], target=lambda x: x[1:]),
    _bad("no stabilizers", "sym must be symkern.Stabilizers", TypeError, sym=None),
    _bad("list", "pred must be a torch.Tensor, got builtins.list", TypeError, pred=lambda x: x.tolist()),
)  # fmt: skip


def _batch(count: int) -> Builder:
    """Octahedra: 48 operations and 7 atoms each."""
    sym_of = molecules("octahedron")

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        one = cast_floats(sym_of(seed), dtype)
        n, g = len(one.positions), one.num_operations
        repeated = torch.arange(count).unsqueeze(1)
        fields = {
            "op_ptr": torch.arange(count + 1) * g,
            "perm_ptr": torch.arange(count * g + 1) * n,
            "ptr": torch.arange(count + 1) * n,
            "permutations": (one.permutations + n * repeated).flatten(),
            "orbits": (one.orbits + n * repeated).flatten(),
        }
        values = vars(one) | fields
        for name, value in values.items():
            if isinstance(value, Tensor) and name not in fields:
                values[name] = value.repeat(count, *[1] * (value.dim() - 1))
        sym = Stabilizers(**values).to(device)
        random = generator(seed)
        pred, target = (torch.randn(count * n, 3, generator=random, dtype=torch.float64) for _ in range(2))
        return {"pred": pred.to(dtype).to(device), "target": target.to(dtype).to(device), "sym": sym}

    return make


def _bytes(inputs: Inputs, output: Any) -> int:
    sym = inputs["sym"]
    return num_bytes(inputs["pred"], inputs["target"], sym.operations, sym.permutations, *output)


_SIZES = {f"{n} octahedra": Size(_batch(n), _bytes, lambda i, _: 24 * len(i["sym"].permutations)) for n in (16, 256)}
_SYMMETRIES = (
    Invariance("rotation", _rotate, ("ragged", "pseudovectors", "points")),
    Invariance("permutation", _reorder, ("finite", "ragged", "points")),
)
_SMOOTH = ("ragged", "pseudovectors", "points")

MSE = Case(
    name="symmetric_mse",
    function=symmetric_mse.symmetric_mse,
    reference=symmetric_mse.reference,
    samples=_samples(),
    differentiable=("pred", "target"),
    gradient_samples=_SMOOTH,
    ops=_mse_ops,
    invariances=_SYMMETRIES,
    bad_inputs=_BAD,
    sizes=_SIZES,
)

CHAMFER = Case(
    name="symmetric_chamfer",
    function=symmetric_chamfer.symmetric_chamfer,
    reference=symmetric_chamfer.reference,
    samples=_samples() | {
        "back": rows(_RAGGED, direction="y_to_x"),
        "both": rows((*_RAGGED, "octahedron"), direction="both"),
        "typed": rows((*_RAGGED, "methane"), direction="both", typed=True),
        "typed points": rows(_LINEAR, kind="point", typed=True),
    },
    differentiable=("pred", "target"),
    gradient_samples=(*_SMOOTH, "typed"),
    ops=_chamfer_ops,
    invariances=_SYMMETRIES,
    bad_inputs=(
        *_BAD,
        _bad("direction", "direction must be one of 'x_to_y', 'y_to_x', 'both', got 'there'", direction="there"),
    ),
    sizes=_SIZES,
)  # fmt: skip


def _squares(x: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
    return segment_sum((x - y).square().sum(-1), ptr)


def _with_metric(bad: BadInput) -> Callable[[], Inputs]:
    return lambda: {"metric": _squares} | bad.make()


LOSS = Case(
    name="symmetric_loss",
    function=symmetric_loss.symmetric_loss,
    reference=symmetric_loss.reference,
    samples=_samples(metric=_squares),
    differentiable=("pred", "target"),
    gradient_samples=_SMOOTH,
    invariances=_SYMMETRIES,
    bad_inputs=(
        *(BadInput(bad.name, _with_metric(bad), bad.error, bad.match) for bad in _BAD),
        _bad("no metric", "metric must be callable", TypeError, metric=None),
        _bad("scalar metric", r"metric must return one number per segment, \(6,\), got \(\)",
             metric=lambda _: lambda x, y, ptr: (x - y).square().sum()),
    ),
)  # fmt: skip

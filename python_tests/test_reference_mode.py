"""`symkern.reference_mode`: references in place of kernels, everywhere, and nothing but references."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import symkern as sk
from symkern._reference import by_reference
from symkern.models import EGNN, DimeNetPlusPlus, SchNet
from symkern.testing.case import Case
from symkern.testing.cases import all_cases

CASES = all_cases()

Z = torch.tensor([6, 1, 1, 8, 1, 6, 7, 1])
POS = torch.tensor(
    [
        [0.0, 0, 0],
        [1.0, 0.1, 0],
        [-0.5, 0.9, 0],
        [0.2, -0.6, 1.1],
        [0.9, -0.2, 1.6],
        [0, 0, 0],
        [1.1, 0.2, 0],
        [0, 1, 0.3],
    ]
)
BATCH = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "SchNet": lambda: SchNet(1, 32, 24, 2, 16, 3.0),
    "EGNN": lambda: EGNN(1, 20, 2, cutoff=3.0, num_basis=8, attention=True),
    "DimeNet++": lambda: DimeNetPlusPlus(1, 16, 2, 8, 4, 16, 3, 4, cutoff=3.0, output_initializer="glorot_orthogonal"),
}
if hasattr(sk.models, "PaiNN"):
    MODELS["PaiNN"] = lambda: sk.models.PaiNN(1, 32, 2, 12, 3.0)


class Seen(TorchDispatchMode):
    """Names of the ops of symkern that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "symkern":
            self.names.add(func._opname)
        return func(*args, **(kwargs or {}))


def pairs() -> Iterator[Any]:
    for name, case in CASES.items():
        for sample in case.samples:
            yield pytest.param(case, sample, id=f"{name}-{sample}")


@pytest.mark.parametrize(("case", "sample"), list(pairs()))
def test_every_case_is_its_reference(case: Case, sample: str) -> None:
    inputs = case.samples[sample](torch.float32, "cpu", 0)
    with sk.reference_mode(), Seen() as seen:
        found, expected = case(inputs), case.expect(inputs)
    assert not seen.names
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", MODELS)
def test_models_and_their_training_step(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    pos = POS.double()

    def step() -> tuple[list[Tensor], set[str]]:
        with Seen() as seen:
            energy, forces = sk.energy_and_forces(model, Z, pos, BATCH, create_graph=True)
            grads = torch.autograd.grad(
                energy.sum() + forces.square().sum(), list(model.parameters()), allow_unused=True
            )
        return [energy, forces, *(torch.zeros(()) if g is None else g for g in grads)], seen.names

    expected, kernels = step()
    with sk.reference_mode():
        found, none = step()
    assert kernels
    assert not none
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_periodic_energy_and_stress() -> None:
    torch.manual_seed(0)
    model = SchNet(1, 16, 16, 2, 8, 3.0).double()
    cell = torch.diag(torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64))
    arguments = (model, Z[:5], POS[:5].double())
    expected = sk.energy_and_forces(*arguments, cell=cell, stress=True)
    with sk.reference_mode(), Seen() as seen:
        found = sk.energy_and_forces(*arguments, cell=cell, stress=True)
    assert not seen.names
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("room", [None, 90])
def test_orders_of_edges(periodic: bool, room: int | None) -> None:
    cell = 3 * torch.eye(3) if periodic else None
    one = sk.neighbor_list(POS, 2.0, batch=BATCH, cell=cell, max_edges=room)
    # repeated and asymmetric edges
    odd = sk.Neighbors.from_edge_index(torch.tensor([[0, 0, 1, 1, 1, 2, 3], [1, 1, 0, 0, 0, 0, 3]]), 4)
    for nb in (one, odd):
        expected = (nb.sender_order, nb.sender_ptr, nb.reverse)
        fresh = sk.Neighbors(nb.edge_index, nb.row_ptr, nb.ptr, nb.cell_shifts)
        with sk.reference_mode(), Seen() as seen:
            found = (fresh.sender_order, fresh.sender_ptr, fresh.reverse)
        assert not seen.names
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_neighbor_list_says_the_same() -> None:
    for options in ({}, {"pbc": (True, False, True)}, {"max_edges": 4000}, {"full": False}, {"self_loops": True}):
        arguments: dict[str, Any] = {"batch": BATCH, "cell": 3 * torch.eye(3), **options}
        with sk.reference_mode():
            found = sk.neighbor_list(POS, 2.0, **arguments)
        expected = sk.neighbor_list(POS, 2.0, **arguments)
        for name in ("edge_index", "row_ptr", "ptr", "cell_shifts"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (options, name)
        assert (found.cutoff, found.full, found.self_loops) == (expected.cutoff, expected.full, expected.self_loops)
    with sk.reference_mode(), pytest.raises(ValueError, match="max_edges must be at least the number of edges"):
        sk.neighbor_list(POS, 2.0, max_edges=1)
    with sk.reference_mode(), pytest.raises(ValueError, match="batch must be sorted"):
        sk.neighbor_list(POS, 2.0, batch=BATCH.flip(0))


def molecules() -> dict[str, Tensor]:
    inputs = CASES["stabilizers"].samples["nearly"](torch.float64, "cpu", 0)
    return {name: inputs[name] for name in ("positions", "numbers", "ptr")}


def test_symmetrize_and_the_graphs_of_sann() -> None:
    given = molecules()
    for inputs in (given, CASES["stabilizers"].samples["ragged"](torch.float64, "cpu", 0)):
        sym = sk.stabilizers(**inputs)
        expected, exact = sk.symmetrize(sym)
        with sk.reference_mode(), Seen() as seen:
            found, same = sk.symmetrize(sym)
        assert not seen.names
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(same.operations, exact.operations, rtol=0, atol=1e-9)
        torch.testing.assert_close(same.residuals, exact.residuals, rtol=0, atol=1e-9)
    canonical = sk.canonicalize(**given)
    wanted = sk.sann_graphs(canonical, 3.0)
    with sk.reference_mode(), Seen() as seen:
        graphs = sk.sann_graphs(canonical, 3.0)
    assert not seen.names
    for name in ("representatives", "class_of", "within_references", "across_references"):
        assert torch.equal(getattr(graphs, name), getattr(wanted, name)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    values = torch.randn(300, 5).to(dtype)
    ptr = torch.tensor([0, 300])
    with sk.reference_mode():
        found = sk.segment_sum(values, ptr)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), sk.segment_sum(values, ptr).float(), rtol=0.01, atol=0)


def test_autocast_leaves_references_in_fp32() -> None:
    torch.manual_seed(0)
    model = SchNet(1, 16, 16, 2, 8, 3.0)
    with torch.autocast("cpu", torch.bfloat16):
        expected = sk.energy_and_forces(model, Z, POS, BATCH)
        with sk.reference_mode():
            found = sk.energy_and_forces(model, Z, POS, BATCH)
            norm = sk.safe_norm(POS.bfloat16())
        assert norm.dtype == sk.safe_norm(POS.bfloat16()).dtype == torch.float32
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_nesting_and_errors() -> None:
    assert not by_reference()
    with sk.reference_mode() as nothing:
        assert nothing is None
        assert by_reference()
        with sk.reference_mode(False):
            assert not by_reference()
            with sk.reference_mode():
                assert by_reference()
        assert by_reference()
    with pytest.raises(KeyError), sk.reference_mode():
        raise KeyError
    assert not by_reference()
    mode = sk.reference_mode()
    with mode, mode:
        assert by_reference()
    assert not by_reference()


def test_as_a_decorator() -> None:
    @sk.reference_mode()
    def count(depth: int) -> int:
        """Documented."""
        return by_reference() + (count(depth - 1) if depth else 0)

    assert count(3) == 4
    assert count.__doc__ == "Documented."
    assert not by_reference()


def test_each_thread_has_its_own() -> None:
    inside: list[bool] = []
    with sk.reference_mode():
        other = threading.Thread(target=lambda: inside.append(by_reference()))
        other.start()
        other.join()
    assert inside == [False]


def test_torch_compile_depends_on_the_mode() -> None:
    """Traced anew in either state; the choice is no graph break."""
    calls: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        kernel = any("symkern" in str(node.target) for node in graph.graph.nodes)
        calls.append("kernel" if kernel else "reference")
        return graph.forward

    norm = torch.compile(lambda x: sk.safe_norm(x).sum(), fullgraph=True, backend=backend)
    x = torch.randn(5, 3)
    for _ in range(2):
        kernel = norm(x)
        with sk.reference_mode():
            torch.testing.assert_close(norm(x), kernel)
    assert calls == ["kernel", "reference"]
    torch._dynamo.reset()


def test_a_compiled_model() -> None:
    torch.manual_seed(0)
    model = SchNet(1, 16, 16, 1, 8, 3.0)
    nb = sk.neighbor_list(POS, 3.0, batch=BATCH)
    compiled = torch.compile(lambda pos: model(Z, pos, BATCH, nb=nb), backend="aot_eager")
    expected = model(Z, POS, BATCH, nb=nb)
    torch.testing.assert_close(compiled(POS), expected)
    with sk.reference_mode():
        torch.testing.assert_close(compiled(POS), expected)
    torch._dynamo.reset()


def test_graphs_keep_their_way_back() -> None:
    x = POS.clone().requires_grad_()
    norm = sk.safe_norm(x).sum()
    with sk.reference_mode(), Seen() as seen:
        norm.backward()
    assert seen.names == {"safe_norm_backward"}


def test_third_derivatives() -> None:
    nb = sk.neighbor_list(POS.double(), 3.0, batch=BATCH)
    values = torch.randn(nb.num_edges, dtype=torch.float64, requires_grad=True)
    with sk.reference_mode():
        y = sk.segment_sum(values.sin(), nb.row_ptr).square().sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(y, values, create_graph=True)
            y = g.sum()
    assert bool(g.any())

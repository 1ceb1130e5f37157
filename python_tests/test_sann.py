"""SANN: its formula in plain loops, relaxed equivariance over point groups, and what it can learn."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import point_groups
import pytest
import torch
from point_groups import Structure, all_constructed, ideal_molecules
from torch import Tensor

import symkern as sk
from symkern.models import SANN
from symkern.testing.geometry import generator

# one of each of 57 groups, with an orbit on a symmetry element
GROUPS = all_constructed()[2::3]


def tensors(structures: list[Structure]) -> tuple[Tensor, Tensor, Tensor]:
    z = torch.tensor(np.concatenate([s.numbers for s in structures]))
    pos = torch.tensor(np.concatenate([s.positions for s in structures]))
    counts = torch.tensor([len(s.numbers) for s in structures])
    return z, pos, torch.repeat_interleave(torch.arange(len(structures)), counts)


def small(output: str = "vector", **settings: object) -> SANN:
    torch.manual_seed(0)
    return SANN(hidden=12, num_spherical=3, num_radial=2, output=output, **settings).double()


NAMED = {s.name: s for s in ideal_molecules()}
SOME = [NAMED[name] for name in ("H2O", "CHFClBr", "benzene", "CO2", "helium", "methane", "HOF", "S8")]


# ---- the formula -----------------------------------------------------------------------------------------------------


def chain() -> Structure:
    """No symmetry, and longer than the cutoff of 8 Å."""
    wobble = torch.rand((9, 3), generator=generator(1), dtype=torch.float64).numpy()
    return point_groups.molecule("chain", "C1", 1, C=(wobble + 1.4 * np.arange(9)[:, None] * point_groups.X))


def by_loops(model: SANN, canonical: sk.Canonical, graphs: sk.SannGraphs, z: Tensor) -> Tensor:
    """SANN section 5, atom by atom and pair by pair; only features of edges and the choice of representatives given."""
    within, across = model.edge_features(canonical, graphs)
    e_within = {(int(i), int(j)): within[k] for k, (j, i) in enumerate(graphs.within.edge_index.T)}
    e_across = {(int(i), int(j)): across[k] for k, (j, i) in enumerate(graphs.across.edge_index.T)}
    sym, x = canonical.sym, canonical.positions
    molecule = sym.batch.tolist()
    classes = [[i for i in range(len(z)) if sym.orbits[i] == sym.orbits[r]] for r in graphs.representatives.tolist()]
    f = [model.first(torch.cat([x[i], model.embedding.weight[z[i]]])) for i in range(len(z))]
    for layer in model.layers:
        f_class = []
        for members in classes:
            messages = [layer.within(torch.cat([f[i], f[j], e_within[i, j]])) for i in members for j in members]
            f_class.append(layer.of_class(sum(messages) / len(messages)))
        g = {}
        for b in set(molecule):
            own = [c for c, members in enumerate(classes) if molecule[members[0]] == b]
            total = torch.zeros(layer.hidden, dtype=x.dtype)
            for c in own:
                for d in own:
                    apart = (x[graphs.representatives[c]] - x[graphs.representatives[d]]).norm()
                    if sym.order[b] == 1 and apart > 8.0:
                        assert (c, d) not in e_across
                        continue
                    total = total + layer.across(torch.cat([f_class[c], f_class[d], e_across[c, d]]))
            g[b] = layer.of_molecule(total)
        new = []
        for i in range(len(z)):
            (own,) = [c for c, members in enumerate(classes) if i in members]
            tokens = [f[i], f_class[own], g[molecule[i]]]
            keys, values = zip(*(layer.key_value(t).chunk(2) for t in tokens), strict=True)
            weight = [torch.exp(layer.query(f[i]) @ k / layer.hidden**0.5) for k in keys]
            new.append(layer.out(sum(w * v for w, v in zip(weight, values, strict=True)) / sum(weight)))
        f = new
    return torch.stack([model.head(h) for h in f])


@pytest.mark.parametrize("output", ["vector", "dipole", "scalar"])
def test_formula(output: str) -> None:
    model = small(output, out=2) if output == "scalar" else small(output)
    z, pos, batch = tensors([NAMED["H2O"], chain(), NAMED["methane"], NAMED["benzene"], NAMED["helium"]])
    canonical = sk.canonicalize(pos, z, batch=batch)
    graphs = sk.sann_graphs(canonical)
    with torch.no_grad():
        found, expected = model(z, pos, batch), by_loops(model, canonical, graphs, z)
    turned = canonical.frames[batch]
    if output == "vector":
        expected = torch.einsum("nij,nj->ni", turned, expected)
    elif output == "dipole":
        terms = expected[:, :1] * canonical.positions + expected[:, 1:]
        expected = pos.new_zeros(5, 3).index_add(0, batch, torch.einsum("nij,nj->ni", turned, terms))
    else:
        expected = expected.new_zeros(5, 2).index_add(0, batch, expected)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert found.abs().max() > 0.01


def test_edge_features_have_the_scale_of_comenet() -> None:
    model = small()
    z, pos, batch = tensors(SOME)
    canonical = sk.canonicalize(pos, z, batch=batch)
    graphs = sk.sann_graphs(canonical)
    within, across = model.edge_features(canonical, graphs)
    assert within.shape == (graphs.within.num_edges, 24)
    plain = torch.cat(sk.sann_edge_features(canonical.positions, graphs.within, 8.0, 3, 2), 1)
    torch.testing.assert_close(within, 8.0**1.5 * plain)
    assert across.shape == (graphs.across.num_edges, 24)
    assert 0.3 < float(across.abs().max()) < 30


# ---- symmetry --------------------------------------------------------------------------------------------------------


def moved(structure: Structure, seed: int) -> tuple[Structure, np.ndarray, np.ndarray]:
    """A copy that is turned (or mirrored), shifted and renumbered; the matrix and the order."""
    random = np.random.default_rng(seed)
    q = point_groups.random_orthogonal(random, 1 if seed % 2 else -1)
    order = random.permutation(len(structure.numbers))
    positions = point_groups.moved(structure.positions, q, random.normal(size=3))[order]
    return Structure(structure.name, structure.label, structure.order, positions, structure.numbers[order]), q, order


def images(structure: Structure, y: np.ndarray) -> np.ndarray:
    """(G, N, 3) s . y for all operations s, from the matrices the structure was made of, or that were found in it."""
    x = structure.positions - structure.positions.mean(0)
    matrices = structure.operations
    if matrices is None:
        matrices = sk.stabilizers(torch.tensor(structure.positions), torch.tensor(structure.numbers)).operations.numpy()
    found = []
    for r in matrices:
        partner = np.linalg.norm((x @ r.T)[:, None] - x, axis=-1).argmin(1)
        image = np.empty_like(y)
        image[partner] = y @ r.T
        found.append(image)
    return np.array(found)


def farthest_from_relaxed(structure: Structure, y: np.ndarray, back: np.ndarray) -> float:
    """min over s in Sym(x) of max |g^-1 f(g x) - s f(x)|."""
    if structure.order:
        return float(np.abs(images(structure, y) - back).max((1, 2)).min())
    x = structure.positions - structure.positions.mean(0)
    if len(x) == 1:
        return float(abs(np.linalg.norm(y) - np.linalg.norm(back)))
    u = x[np.linalg.norm(x, axis=1).argmax()]
    u = u / np.linalg.norm(u)
    e = np.linalg.svd(u[None])[2][1:]
    best = np.inf
    for candidate in images(structure, y):
        a, b = ((v @ e[0]) + 1j * (v @ e[1]) for v in (candidate, back))
        along = np.abs((candidate - back) @ u).max()
        for hand in (a, a.conj()):  # mirror planes through the axis
            turn = np.exp(1j * np.angle(np.vdot(hand, b)))
            best = min(best, max(along, np.abs(turn * hand - b).max()))
    return float(best)


def spread(structures: list[Structure], values: Tensor) -> list[np.ndarray]:
    return np.split(values.numpy(), np.cumsum([len(s.numbers) for s in structures])[:-1])


@pytest.mark.parametrize("structures", [list(GROUPS), list(ideal_molecules())], ids=["groups", "molecules"])
def test_relaxed_equivariance(structures: list[Structure]) -> None:
    structures = [s for s in structures if len(s.numbers) <= 130]
    assert len({s.label for s in structures}) >= 20
    model = small()
    with torch.no_grad():
        predicted = spread(structures, model(*tensors(structures)))
        for seed in (1, 2):
            copies, matrices, orders = zip(*(moved(s, seed + 10 * k) for k, s in enumerate(structures)), strict=True)
            again = spread(list(copies), model(*tensors(list(copies))))
            for s, y, copy_, q, order in zip(structures, predicted, again, matrices, orders, strict=True):
                back = np.empty_like(copy_)
                back[order] = copy_ @ q
                assert farthest_from_relaxed(s, y, back) < 1e-9, s


def test_it_breaks_symmetries() -> None:
    """Of nearly all molecules with symmetry, no operation but the identity keeps the vectors."""
    structures = [s for s in GROUPS if s.order > 1 and len(s.numbers) <= 130]
    with torch.no_grad():
        predicted = spread(structures, small()(*tensors(structures)))
    kept = [(np.abs(images(s, y) - y).max((1, 2)) < 1e-4).sum() for s, y in zip(structures, predicted, strict=True)]
    assert max(kept) <= 1


def test_nearly_symmetric_molecules_are_equivariant() -> None:
    """Where the positions tell the images apart, the choice between them turns along. (Those of water never do.)"""
    model = small()
    z, pos, batch = tensors([NAMED[name] for name in ("NH3", "benzene", "methane")])
    pos = pos + 1e-3 * torch.randn(pos.shape, generator=generator(0), dtype=torch.float64)
    assert sk.stabilizers(pos, z, batch=batch).order.tolist() == [6, 24, 24]
    q = torch.tensor(point_groups.random_orthogonal(np.random.default_rng(0), -1))
    with torch.no_grad():
        torch.testing.assert_close(model(z, pos @ q.T + 1, batch), model(z, pos, batch) @ q.T, rtol=1e-8, atol=1e-9)


def test_scalars_are_invariant_and_dipoles_turn() -> None:
    structures = [NAMED[name] for name in ("H2O", "CHFClBr", "NH3", "HOF", "HCl")]
    copies, matrices, _ = zip(*(moved(s, k) for k, s in enumerate(structures)), strict=True)
    scalar, dipole = small("scalar", out=3), small("dipole")
    with torch.no_grad():
        torch.testing.assert_close(scalar(*tensors(list(copies))), scalar(*tensors(structures)), rtol=1e-9, atol=1e-9)
        y, back = dipole(*tensors(structures)), dipole(*tensors(list(copies)))
    for s, q, a, b in zip(structures, matrices, y.numpy(), back.numpy(), strict=True):
        # one vector per molecule: no permutation
        matrices_of = sk.stabilizers(torch.tensor(s.positions), torch.tensor(s.numbers)).operations.numpy()
        if s.order:
            assert min(np.abs(r @ a - q.T @ b).max() for r in matrices_of) < 1e-9, s
    assert abs(np.linalg.norm(y[4]) - np.linalg.norm(back[4])) < 1e-9


def test_batch_is_its_molecules() -> None:
    z, pos, batch = tensors(SOME)
    for model in (small(), small("dipole"), small("scalar", out=2)):
        with torch.no_grad():
            singles = [model(z[batch == b], pos[batch == b]) for b in range(len(SOME))]
            torch.testing.assert_close(model(z, pos, batch), torch.cat(singles), rtol=1e-11, atol=1e-11)


# ---- the module ------------------------------------------------------------------------------------------------------


def test_what_is_given_is_not_made_again() -> None:
    model = small()
    z, pos, batch = tensors(SOME)
    canonical = sk.canonicalize(pos, z, batch=batch)
    graphs = sk.sann_graphs(canonical)
    features = model.edge_features(canonical, graphs)
    nb = sk.neighbor_list(pos, 3.0, batch=batch)
    with torch.no_grad():
        expected = model(z, pos, batch)
        assert torch.equal(model(z, pos, batch), expected)
        assert torch.equal(model(z, pos, nb=nb), expected)
        for given in ({"canonical": canonical}, {"canonical": canonical, "graphs": graphs}):
            assert torch.equal(model(z, pos, batch, **given), expected)
        assert torch.equal(model(z, pos, canonical=canonical, graphs=graphs, features=features), expected)


def test_no_atoms_and_one() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    nowhere = torch.zeros(0, 3, dtype=torch.float64)
    assert small()(none, nowhere, none).shape == (0, 3)
    assert small("scalar")(none, nowhere, none).shape == (0, 1)
    assert small("dipole")(torch.tensor([8]), torch.zeros(1, 3, dtype=torch.float64)).isfinite().all()


def test_gradients_with_frames_held_fixed() -> None:
    """Of positions and weights, against differences; finite where atoms are collinear or alone."""
    model = small("dipole", num_layers=1)
    z, pos, batch = tensors([NAMED["HOF"], NAMED["CHFClBr"]])
    canonical = sk.canonicalize(pos, z, batch=batch)
    graphs = sk.sann_graphs(canonical)

    def fixed(x: Tensor) -> Tensor:
        center = torch.stack([x[batch == b].mean(0) for b in range(2)])[batch]
        positions = torch.einsum("ni,nij->nj", x - center, canonical.frames[batch])
        own = sk.Canonical(canonical.frames, positions, canonical.gap, canonical.orbit_rank, canonical.sym)
        return model(z, pos, canonical=own, graphs=graphs)

    assert torch.autograd.gradcheck(fixed, (pos.clone().requires_grad_(),))
    x = pos.clone().requires_grad_()
    (implicit,) = torch.autograd.grad(model(z, x, batch).square().sum(), x)
    x = pos.clone().requires_grad_()
    (explicit,) = torch.autograd.grad(fixed(x).square().sum(), x)
    torch.testing.assert_close(implicit, explicit, rtol=1e-9, atol=1e-9)

    z, pos, batch = tensors(SOME)
    x = pos.clone().requires_grad_()
    small()(z, x, batch).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_same_bits_at_every_run() -> None:
    z, pos, batch = tensors(SOME)

    def gradient() -> list[Tensor]:
        model = small().float()
        model(z, pos.float(), batch).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradient(), gradient(), strict=True))


def test_reference_mode() -> None:
    model = small("dipole")
    z, pos, batch = tensors(SOME)
    with torch.no_grad(), sk.reference_mode():
        expected = model(z, pos, batch)
    with torch.no_grad():
        torch.testing.assert_close(model(z, pos, batch), expected, rtol=1e-10, atol=1e-11)


def test_autocast() -> None:
    z, pos, batch = tensors(SOME)
    model = small().float()
    expected = model(z, pos.float(), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(z, pos.float(), batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)


def test_saved_and_read(tmp_path: Path) -> None:
    model = small("scalar", out=2, cutoff=6.0, tolerance=0.02, num_layers=1)
    sk.Normalized(copy.deepcopy(model), mean=0.0, std=1.0).save(tmp_path / "model.pt")
    read = sk.load_model(tmp_path / "model.pt")
    z, pos, batch = tensors(SOME)
    with torch.no_grad():
        torch.testing.assert_close(read(z, pos, batch), model(z, pos, batch), rtol=1e-12, atol=1e-12)


def test_tolerance_decides_what_is_symmetric() -> None:
    z, pos, batch = tensors([NAMED["H2O"]])
    pos[1, 0] += 0.03
    coarse, fine = small(tolerance=0.1), small(tolerance=0.001)
    with torch.no_grad():
        assert not torch.allclose(coarse(z, pos, batch), fine(z, pos, batch))
        given = sk.canonicalize(pos, z, tolerance=0.1)
        assert torch.equal(coarse(z, pos, batch), fine(z, pos, canonical=given))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "tensor"}, "output must be one of vector, dipole, scalar, got 'tensor'"),
        ({"out": 2}, "out is a setting of output='scalar', got 2 for 'vector'"),
        ({"num_spherical": 9}, r"num_spherical must be in 1 \.\. 8, got 9"),
        ({"num_radial": 0}, r"num_radial must be in 1 \.\. 8, got 0"),
        ({"hidden": 0}, "hidden must be positive"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SANN(**settings)


def test_bad_input() -> None:
    model = small()
    z, pos, batch = tensors(SOME)
    canonical = sk.canonicalize(pos, z, batch=batch)
    graphs = sk.sann_graphs(canonical)
    water = sk.canonicalize(pos[:3], z[:3])
    with pytest.raises(ValueError, match="cell must be None"):
        model(z, pos, batch, cell=torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"pos must be torch\.float64"):
        model(z, pos.float(), batch)
    with pytest.raises(ValueError, match=r"z must lie in 1 \.\. 99"):
        model(torch.zeros_like(z), pos, batch)
    with pytest.raises(ValueError, match="canonical must be given with graphs"):
        model(z, pos, batch, graphs=graphs)
    with pytest.raises(ValueError, match=f"canonical must be of the {len(z)} atoms of z, got of 3"):
        model(z, pos, batch, canonical=water)
    with pytest.raises(ValueError, match=f"graphs must be of the {len(z)} atoms of z, got of 3"):
        model(z, pos, canonical=canonical, graphs=sk.sann_graphs(water))
    with pytest.raises(ValueError, match="canonical must be of these positions"):
        model(z, pos + 1, batch, canonical=canonical)
    with pytest.raises(ValueError, match="canonical must be of these species"):
        model(z + 1, pos, batch, canonical=canonical)
    with pytest.raises(ValueError, match="canonical must be of the molecules of batch"):
        model(z, pos, torch.zeros_like(batch), canonical=canonical)
    with pytest.raises(ValueError, match="nb must have the molecules of batch"):
        model(z, pos, torch.zeros_like(batch), nb=sk.neighbor_list(pos, 3.0, batch=batch))
    single = sk.sann_graphs(sk.canonicalize(pos, z))
    with pytest.raises(ValueError, match="graphs must be those of canonical"):
        model(z, pos, batch, canonical=canonical, graphs=single)
    with pytest.raises(ValueError, match=f"nb must be a graph of the {len(z)} atoms"):
        model(z, pos, nb=sk.neighbor_list(pos[:3], 3.0))
    with pytest.raises(TypeError, match=r"graphs must be symkern\.SannGraphs"):
        model(z, pos, canonical=canonical, graphs="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="within must be floats of shape"):
        model(z, pos, canonical=canonical, graphs=graphs, features=(pos, pos))


# ---- learning --------------------------------------------------------------------------------------------------------

WATER = torch.tensor([[0, 0, -0.0503], [0.582, 0, 0.399], [-0.582, 0, 0.399]])
STRETCH = torch.tensor([[0.0703, 0, 0], [-0.5577, 0, -0.4318], [-0.5577, 0, 0.4318]])


def test_learns_the_asymmetric_stretching_of_water() -> None:
    """What no equivariant model can: zero output has loss 1, and so has the best equivariant one."""
    torch.manual_seed(1)
    model = SANN()
    turns = torch.linalg.qr(torch.randn(2, 3, 3)).Q
    pos, labels = ((x @ turns.mT).flatten(0, 1) for x in (WATER - WATER.mean(0), STRETCH / STRETCH.norm()))
    z, batch = torch.tensor([8, 1, 1] * 2), torch.tensor([0, 0, 0, 1, 1, 1])
    canonical = sk.canonicalize(pos, z, batch=batch)
    given = {"canonical": canonical, "graphs": sk.sann_graphs(canonical)}
    given["features"] = model.edge_features(canonical, given["graphs"])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = sk.symmetric_mse(model(z, pos, **given), labels, canonical.sym)[0].mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert max(losses[-20:]) < 1e-3

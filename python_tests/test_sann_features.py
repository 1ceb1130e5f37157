"""Edge features of SANN: against SciPy, ASE and ComENet's own code, and where geometry degenerates."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.special import sph_harm_y, spherical_jn
from torch import Tensor

import symkern as sk
from symkern.ops.spherical_basis import bessel_roots
from symkern.testing.cases.reference_neighbors import complete
from symkern.testing.geometry import generator, random_rotation

CUTOFF = 8.0


def all_pairs(atoms: int, self_loops: bool = True) -> sk.Neighbors:
    return complete(torch.tensor([0, atoms]), self_loops)


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def features_by_scipy(d, theta, phi, tau, num_spherical: int, num_radial: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = [], []
    roots = bessel_roots(num_spherical, num_radial).numpy()
    for order in range(num_spherical):
        z = roots[order]
        assert np.abs(spherical_jn(order, z)).max() < 1e-14
        norm = math.sqrt(2 / CUTOFF**3) / np.abs(spherical_jn(order + 1, z))
        radial = norm * spherical_jn(order, d[:, None] * z / CUTOFF)
        for m in range(-order, order + 1):
            y = sph_harm_y(order, abs(m), theta, phi)
            y = y.real if m == 0 else math.sqrt(2) * (-1) ** m * (y.real if m > 0 else y.imag)
            first.append(radial * y[:, None])
        second.append(radial * sph_harm_y(order, 0, tau, 0 * tau).real[:, None])
    return np.concatenate(first, 1), np.concatenate(second, 1)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_spherical", "num_radial"), [(1, 1), (3, 6), (6, 3), (8, 8)])
def test_values_of_scipy(num_spherical, num_radial) -> None:
    # d from far below the first root to three cutoffs
    unit = torch.nn.functional.normalize(normal((60, 3), 0), dim=1)
    d = torch.logspace(-3, math.log10(3 * CUTOFF), 60, dtype=torch.float64)
    local, tau = d[:, None] * unit, 3 * normal((60,), 1).tanh()
    found = sk.spherical_features(local, tau, CUTOFF, num_spherical, num_radial)
    length, theta, phi = (t.numpy() for t in sk.local_angles(local))
    expected = features_by_scipy(length, theta, phi, tau.numpy(), num_spherical, num_radial)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14 * max(1, np.abs(b).max()), rtol=0)


def test_values_of_comenet() -> None:
    """The code of ComENet's authors has the harmonics in the order m = 0 .. l, -l .. -1, and no cutoff^(-3/2)."""
    with np.load(Path(__file__).parent / "vectors" / "comenet_dig.npz") as archive:
        given = {key: torch.from_numpy(archive[key]) for key in archive.files}
    d, theta, phi = given["d"], given["theta"], given["phi"]
    across = d * theta.sin()
    local = torch.stack([across * phi.cos(), across * phi.sin(), d * theta.cos()], 1)
    num_spherical, num_radial = 5, given["angle"].shape[1] // 5
    first, second = sk.spherical_features(local, given["tau"], CUTOFF, num_spherical, num_radial)
    theirs = given["torsion"].reshape(len(d), num_spherical**2, num_radial)
    columns = [order**2 + m % (2 * order + 1) for order in range(num_spherical) for m in range(-order, order + 1)]
    # their roots are rounded to fp32
    close = {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(CUTOFF**1.5 * first, theirs[:, columns].flatten(1), **close)
    torch.testing.assert_close(CUTOFF**1.5 * second, given["angle"], **close)


def test_radial_functions_are_orthonormal() -> None:
    """On a sphere of the cutoff: the integral of f_n f_k r^2 dr dOmega is 1 or 0."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    r = torch.from_numpy(CUTOFF * (nodes + 1) / 2)
    local = r[:, None] * torch.tensor([0.0, 0, 1], dtype=torch.float64)
    first, _ = sk.spherical_features(local, torch.zeros_like(r), CUTOFF, 6, 4)
    weight = torch.from_numpy(weights * CUTOFF / 2) * r.square()
    for order in range(6):
        column = (order * order + order) * 4
        radial = first[:, column : column + 4] / math.sqrt((2 * order + 1) / (4 * math.pi))
        torch.testing.assert_close(radial.T @ (weight[:, None] * radial), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_angles_of_ase(seed) -> None:
    atoms = 7
    positions = 2 * normal((atoms, 3), seed)
    nb = all_pairs(atoms)
    references = sk.reference_neighbors(positions, nb)
    local, tau = sk.local_coordinates(sk.edge_vectors(positions, nb), nb, references)
    d, theta, phi = sk.local_angles(local)
    molecule = Atoms(numbers=[1] * atoms, positions=positions.numpy())
    distances = molecule.get_all_distances() + 1e9 * np.eye(atoms)
    nearest = np.argsort(distances, 1)[:, :2].tolist()
    checked = 0
    for e, (j, i) in enumerate(nb.edge_index.T.tolist()):
        if i == j:
            assert (float(d[e]), float(theta[e]), float(phi[e]), float(tau[e])) == (0, 0, 0, 0)
            continue
        (n, n_next), (m, m_next) = nearest[i], nearest[j]
        assert float(d[e]) == pytest.approx(distances[i, j])
        if j == n:
            assert float(theta[e]) == pytest.approx(0, abs=1e-7)
        else:
            assert math.degrees(theta[e]) == pytest.approx(molecule.get_angle(n, i, j))
            if j != n_next:
                assert_same_angle(phi[e], molecule.get_dihedral(j, i, n, n_next))
            else:
                assert_same_angle(phi[e], 0)
        own, theirs = n_next if n == j else n, m_next if m == i else m
        assert_same_angle(tau[e], molecule.get_dihedral(own, i, j, theirs) if own != theirs else 0)
        checked += 1
    assert checked == atoms * (atoms - 1)


def assert_same_angle(radians: Tensor, degrees: float) -> None:
    assert (math.degrees(radians) - degrees + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


# ---- references ------------------------------------------------------------------------------------------------------


def names(references: Tensor, nb: sk.Neighbors) -> list[list[int]]:
    return torch.where(references < 0, -1, nb.senders[references]).tolist()


def test_ties_go_to_the_smallest_coordinates() -> None:
    """Two neighbors at the same distance within the tolerance, whichever is nearer or comes first."""
    for noise in (-0.005, 0, 0.005):
        positions = torch.tensor([[0.0, 0, 0], [1 + noise, 0, 0], [-1 + noise, 0, 0], [0, 1.5, 0], [0, 1.5, 3]])
        for order in ([0, 1, 2, 3, 4], [4, 2, 3, 1, 0]):
            nb = all_pairs(5)
            found = names(sk.reference_neighbors(positions[order], nb), nb)[order.index(0)]
            # atom 1 is as near as atom 2, but on one line with it
            assert [order[k] for k in found] == [2, 3]


def test_tolerance_of_ties() -> None:
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, -1.03, 0], [0, 0, 4]])
    nb = all_pairs(4)
    assert names(sk.reference_neighbors(positions, nb, tie=0.02), nb)[0] == [1, 2]
    assert names(sk.reference_neighbors(positions, nb, tie=0.04), nb)[0] == [2, 1]


@pytest.mark.parametrize(
    "positions",
    [
        [[0.0, 0, 0]],
        [[0.0, 0, 0], [1, 1, 0]],
        [[0.0, 0, -1.16], [0, 0, 0], [0, 0, 1.16], [0, 0, 2.5]],
        [[0.0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ],
    ids=["one", "two", "line", "one place"],
)
def test_canonical_axes(positions) -> None:
    """Fewer than three atoms, or a line: polar angle from z; azimuth from x, with the sign of a dihedral."""
    x = torch.tensor(positions, dtype=torch.float64)
    nb = all_pairs(len(x))
    references = sk.reference_neighbors(x, nb)
    assert (references == -1).all()
    vec = sk.edge_vectors(x, nb)
    local, tau = sk.local_coordinates(vec, nb, references)
    torch.testing.assert_close(local, vec * torch.tensor([1.0, -1, 1], dtype=torch.float64))
    assert not tau.any()


# ---- symmetry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_rotation_and_reflection(sign) -> None:
    """Features of a rotated molecule are the same; in a mirror image sin(m phi) and tau change sign."""
    positions, nb = 2 * normal((8, 3), 0), all_pairs(8)
    references = sk.reference_neighbors(positions, nb)
    turned = positions @ (sign * random_rotation(generator(1))).T + 3
    before = sk.local_coordinates(sk.edge_vectors(positions, nb), nb, references)
    after = sk.local_coordinates(sk.edge_vectors(turned, nb), nb, references)
    tau = torch.where(before[1].abs() > math.pi - 1e-9, after[1].sign() * before[1].abs() * sign, before[1])
    torch.testing.assert_close(after[1], sign * tau)
    torch.testing.assert_close(sk.local_angles(after[0])[2][1:8], sign * sk.local_angles(before[0])[2][1:8])
    assert (before[1].abs() > 0.1).sum() > 20
    features = [sk.sann_edge_features(x, nb, CUTOFF, 4, 3, references=references) for x in (positions, turned)]
    signs = [sign if m < 0 else 1 for order in range(4) for m in range(-order, order + 1)]
    torch.testing.assert_close(features[1][0], features[0][0] * torch.tensor(signs).repeat_interleave(3))
    torch.testing.assert_close(features[1][1], features[0][1])


def test_permutation_and_batching() -> None:
    sizes = [5, 3, 7]
    parts = [2 * normal((n, 3), n) for n in sizes]
    alone = [sk.sann_edge_features(x, all_pairs(len(x)), CUTOFF, 3, 2) for x in parts]
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    together = sk.sann_edge_features(torch.cat(parts), complete(ptr), CUTOFF, 3, 2)
    for kind in (0, 1):
        assert torch.equal(together[kind], torch.cat([f[kind] for f in alone]))
    order = torch.randperm(7, generator=generator(0))
    mixed = sk.sann_edge_features(parts[2][order], all_pairs(7), CUTOFF, 3, 2)
    for kind in (0, 1):
        rows = alone[2][kind].reshape(7, 7, -1)[order][:, order].flatten(0, 1)
        assert torch.equal(mixed[kind], rows)


def ring(n: int, radius: float = 1.4) -> Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return radius * torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)


CUBE = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
TETRAHEDRON = CUBE[CUBE.prod(1) > 0]
OCTAHEDRON = torch.cat([torch.eye(3), -torch.eye(3)]).double()


@pytest.mark.parametrize(
    "orbit", [ring(3), ring(6), TETRAHEDRON, OCTAHEDRON, CUBE], ids=["ring 3", "ring 6", "Td", "Oh", "cube"]
)
def test_atoms_of_an_orbit_see_the_same(orbit) -> None:
    """Every atom sees the same multiset of distances and polar angles, however turned and with noise in the ties."""
    n = len(orbit)
    for seed in range(4):
        noise = 1e-5 * normal((n, 3), seed)
        x = (orbit + noise) @ random_rotation(generator(seed)).T
        nb = all_pairs(n)
        references = sk.reference_neighbors(x, nb)
        local, _ = sk.local_coordinates(sk.edge_vectors(x, nb), nb, references)
        d, theta, _ = sk.local_angles(local)
        # cosines times distances, since angles next to 0 and pi magnify the noise
        seen = torch.stack([d, d * theta.cos()], 1).reshape(n, n, 2)
        for row in seen[1:]:
            gaps = (row[:, None] - seen[0][None]).abs().amax(-1)
            assert (gaps.amin(1) < 2e-4).all()
            assert ((gaps < 2e-4).sum(0) == ((seen[0][:, None] - seen[0][None]).abs().amax(-1) < 2e-4).sum(0)).all()


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atoms", [1, 2, 4])
def test_gradients_in_positions(atoms) -> None:
    """With self loops, through everything."""
    positions, nb = (1.5 * normal((atoms, 3), 0)).requires_grad_(), all_pairs(atoms)
    references = sk.reference_neighbors(positions, nb)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        return sk.sann_edge_features(x, nb, CUTOFF, 3, 2, references=references)

    assert torch.autograd.gradcheck(run, (positions,))
    assert torch.autograd.gradgradcheck(run, (positions,))


def test_self_loops_have_no_gradient() -> None:
    positions, nb = (1.5 * normal((5, 3), 0)).requires_grad_(), all_pairs(5)
    loops = nb.senders == nb.receivers
    first, second = sk.sann_edge_features(positions, nb, CUTOFF, 3, 2)
    (grad,) = torch.autograd.grad(first[loops].square().sum() + first[loops].sum() + second[loops].sum(), positions)
    assert grad.abs().max() < 1e-15
    # and what they are: j_0(0) Y_00 alone
    assert (first[loops][:, :2] > 0).all()
    assert not first[loops][:, 2:].any()
    assert not second[loops][:, 2:].any()


DEGENERATE = {
    "coincident": [[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1.3, 0], [0, 0, 2]],
    "line": [[0.0, 0, 0], [1, 0, 0], [2.1, 0, 0], [-1.2, 0, 0]],
    "line in a plane": [[0.0, 0, 0], [1, 0, 0], [-1.2, 0, 0], [3, 0, 0], [0, 2, 0]],
    "square": [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]],
    "all in one place": [[0.0, 0, 0]] * 4,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate(name, dtype) -> None:
    """Values and two derivatives are finite; in fp64 positions a hair away give nearly the same features."""
    positions = torch.tensor(DEGENERATE[name], dtype=torch.float64)
    positions = (positions @ random_rotation(generator(3)).T).to(dtype).requires_grad_()
    nb = all_pairs(len(positions))
    references = sk.reference_neighbors(positions, nb)
    first, second = sk.sann_edge_features(positions, nb, CUTOFF, 4, 3, references=references)
    (force,) = torch.autograd.grad(first.square().sum() + second.square().sum(), positions, create_graph=True)
    (hessian,) = torch.autograd.grad(force.square().sum() + force.sum(), positions)
    for value in (first, second, force, hessian):
        assert value.isfinite().all()
    near = positions.detach() + 1e-5 * normal(tuple(positions.shape), 0).to(dtype)
    moved, _ = sk.sann_edge_features(near, nb, CUTOFF, 4, 3, references=references)
    # the first kind has no singular place: where a frame would have one, axes take its place
    assert (moved - first).abs().max() < 1e-4


def test_gradient_on_the_axis_is_the_limit() -> None:
    """Opposite to the first reference theta is pi, where the gradient of phi has no limit, but that of Y_lm has."""
    positions = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 1.5, 0], [0, 0, -2]], dtype=torch.float64, requires_grad=True)
    nb = all_pairs(4)
    references = sk.reference_neighbors(positions, nb)
    assert names(references, nb)[0] == [1, 2]

    def run(x: Tensor) -> Tensor:
        first, _ = sk.sann_edge_features(x, nb, CUTOFF, 4, 2, references=references)
        return first[3]  # 3 -> 0

    (exact,) = torch.autograd.grad(run(positions)[2:8].sum(), positions)
    assert exact[3, 0].abs() > 1e-3
    assert torch.autograd.gradcheck(run, (positions,))
    assert torch.autograd.gradgradcheck(run, (positions,))


def test_compile() -> None:
    positions, nb = 1.5 * normal((5, 3), 0), all_pairs(5)

    def run(x: Tensor) -> Tensor:
        first, second = sk.sann_edge_features(x, nb, CUTOFF, 3, 2)
        return first.square().sum() + second.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found = []
    for call in (run, compiled):
        x = positions.clone().requires_grad_()
        value = call(x)
        found.append((value.detach(), *torch.autograd.grad(value, x)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)

"""Make the stand-in for QM7-X: structures of small molecules with Hirshfeld charges and atomic dipole vectors.

QM7-X holds DFT properties of molecules of at most seven heavy atoms, relaxed and displaced. This makes a set of the
same kind, small enough to be shipped: molecules of at most five heavy atoms, their conformers, and displaced copies.

Geometries: RDKit (ETKDG, then MMFF94 to a stationary point); copies are displaced along the eigenvectors of the force
field's Hessian with the amplitudes of classical thermal motion. Densities: PySCF, closed-shell PBE0, def2-SVP, density
fitting; every SCF has converged. Hirshfeld: weights from free atoms in the same functional and basis, spin-restricted
with fractional occupations, so that they are spherical. QM7-X itself has PBE0+MBD in numerical orbitals ("tight") on
geometries of DFTB3+MBD: numbers of the two sets are alike, not equal.

A charge is q_a = Z_a - int w_a rho, an atomic dipole mu_a = -int w_a rho (r - R_a), w_a = rho_a / sum_b rho_b. What
charges and atomic dipoles add up to, sum_a (q_a R_a + mu_a), is compared with the dipole of the density matrix.

Usage: python scripts/make_qm7x_stand_in.py WORK OUT.npz [--stop N]
    (in an environment with requirements/qm7x.txt). Each structure is kept in the folder WORK as it is finished; a
    second run goes on from there. With --stop only the first N are computed, and nothing is written to OUT.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto
from pyscf.data import elements, nist
from pyscf.scf.atom_ks import AtomSphAverageRKS
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.interpolate import CubicSpline
from scipy.special import softmax

Array = NDArray[np.float64]

SMILES = (
    # one heavy atom
    "C N O S",
    # two
    "CC C=C C#C CN CO CS CCl C=O C#N NN NO OO",
    # three
    "CCC CC=C CC#C C=C=C C1CC1 CCO COC CNC CSC CC=O CC#N C1CO1 C1CN1 NC=O OC=O ClCCl O=C=O C=C=O",
    # four
    "C=CC=C CC(C)=O C1COC1 COC=O NC(N)=O O=CC=O OCCO CC(O)=O C=CC#N C=CC=O",
    # five
    "c1ccoc1 c1cc[nH]c1 c1c[nH]cn1 C1COCO1 N#CCC#N",
)
CONFORMERS = 2  # of each molecule at most, those of lowest energy
TEMPERATURES = (100.0, 10.0, 1000.0, 300.0)  # K, one displaced copy of each conformer for each
SOFT = 20.0  # kcal/mol/Å²: softer modes move as this one does, as straight lines mean little there
INTERNAL = 0.1  # kcal/mol/Å²: what is softer is translation or rotation
BOLTZMANN = 0.0019872043  # kcal/mol/K

FUNCTIONAL, BASIS = "pbe0", "def2-svp"
SCF_GRID, HIRSHFELD_GRID = 1, 4  # PySCF's levels; a finer one in the SCF changes vectors by 2e-5 e bohr
CONVERGED = 1e-9  # Ha
CHECKED = 5e-4  # what charges may add up to, in e, and how far the dipole may be off, in e bohr


@dataclass
class Structure:
    identity: str  # as in QM7-X: Geom-m<molecule>-i1-c<conformer>-opt or -d<copy>
    smiles: str
    molecule: int
    conformer: int
    temperature: float  # K, 0 for relaxed
    numbers: NDArray[np.int64]
    positions: Array  # Å, centred


# ---- geometries ------------------------------------------------------------------------------------------------------


def structures() -> list[Structure]:
    """All relaxed ones, then all copies of the first temperature, and so on."""
    relaxed, displaced = [], []
    for molecule, smiles in enumerate(" ".join(SMILES).split(), 1):
        for conformer, (numbers, x, hessian) in enumerate(conformers(smiles), 1):
            for copy, temperature in enumerate((0.0, *TEMPERATURES)):
                name = f"Geom-m{molecule}-i1-c{conformer}-" + (f"d{copy}" if copy else "opt")
                random = np.random.default_rng([molecule, conformer, copy])
                y = x + thermal(hessian, temperature, random) if copy else x
                found = Structure(name, smiles, molecule, conformer, temperature, numbers, y - y.mean(0))
                (displaced if copy else relaxed).append((copy, found))
    return [s for _, s in relaxed] + [s for _, s in sorted(displaced, key=lambda pair: pair[0])]


def conformers(smiles: str) -> list[tuple[NDArray[np.int64], Array, Array]]:
    """Atomic numbers, positions (N, 3) and Hessian (3 N, 3 N) of each, lowest energy first; mirror images are one."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = 1
    AllChem.EmbedMultipleConfs(molecule, 20, parameters)
    properties = AllChem.MMFFGetMoleculeProperties(molecule)
    field = None
    found: list[tuple[float, Array, Array]] = []
    for conformer in molecule.GetConformers():
        field = AllChem.MMFFGetMoleculeForceField(molecule, properties, confId=conformer.GetId())
        field.Initialize()
        while field.Minimize(maxIts=10_000, forceTol=1e-9, energyTol=1e-14):
            pass
        x = np.array(field.Positions()).reshape(-1, 3)
        distances = np.sort(np.linalg.norm(x[:, None] - x, axis=-1), axis=None)
        energy = field.CalcEnergy()
        if all(abs(energy - e) > 1e-3 or np.abs(distances - d).max() > 1e-2 for e, d, _ in found):
            found.append((energy, distances, x))
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    chosen = sorted(found, key=lambda entry: entry[0])[:CONFORMERS]
    return [(numbers, *minimum(field, x)) for _, _, x in chosen]


def minimum(field: AllChem.ForceField, x: Array, steps: int = 2) -> tuple[Array, Array]:
    """The minimum next to x by Newton's method, so that what is symmetric is so to rounding, and the Hessian there.

    RDKit's gradients are good to three digits, so all derivatives are differences of energies.

    Raises:
        RuntimeError: there is no minimum.
    """
    for _ in range(steps):
        values, modes = np.linalg.eigh(hessian_of(field, x))
        if values[0] < -0.1:
            raise RuntimeError(f"a saddle point: curvature {values[0]:.2g} kcal/mol/Å²")
        stiff = values > INTERNAL
        slope = modes.T @ gradient_of(field, x)
        x = x - (modes[:, stiff] @ (slope[stiff] / values[stiff])).reshape(x.shape)
    if np.abs(gradient_of(field, x)).max() > 1e-5:
        raise RuntimeError("no stationary point")
    return x, hessian_of(field, x)


def gradient_of(field: AllChem.ForceField, x: Array, step: float = 1e-4) -> Array:
    """(3 N,) kcal/mol/Å."""
    values = []
    for shift in step * np.eye(x.size):
        ahead, behind = (field.CalcEnergy((x.ravel() + s).tolist()) for s in (shift, -shift))
        values.append((ahead - behind) / (2 * step))
    return np.array(values)


def hessian_of(field: AllChem.ForceField, x: Array, step: float = 1e-3) -> Array:
    """(3 N, 3 N) kcal/mol/Å²."""
    rows = []
    for shift in step * np.eye(x.size):
        ahead, behind = (gradient_of(field, x + s.reshape(x.shape)) for s in (shift, -shift))
        rows.append((ahead - behind) / (2 * step))
    h = np.array(rows)
    return (h + h.T) / 2


def thermal(hessian: Array, temperature: float, random: np.random.Generator) -> Array:
    """A displacement (N, 3) with the probability exp(-u H u / 2 k T), in which soft modes are made stiffer."""
    values, modes = np.linalg.eigh(hessian)
    internal = values > INTERNAL
    sizes = np.sqrt(BOLTZMANN * temperature / values[internal].clip(SOFT))
    return (modes[:, internal] @ (sizes * random.normal(size=sizes.size))).reshape(-1, 3)


# ---- densities -------------------------------------------------------------------------------------------------------


class FreeAtom:
    """The spherical density of an atom, as a spline of its logarithm."""

    def __init__(self, number: int) -> None:
        mol = gto.M(atom=[(number, (0, 0, 0))], basis=BASIS, spin=number % 2, verbose=0)
        mf = AtomSphAverageRKS(mol, xc=FUNCTIONAL)
        mf.atomic_configuration = elements.NRSRHF_CONFIGURATION
        mf.grids.atom_grid = (200, 590)
        mf.conv_tol = CONVERGED
        mf.kernel()
        if not mf.converged:
            raise RuntimeError(f"the atom {number} does not converge")
        dm = mf.make_rdm1()
        self.radii = np.concatenate([[0], np.geomspace(1e-4, 25, 3000)])
        along = self.density(mol, dm, np.array([0, 0, 1.0]))
        for direction in ([1.0, 0, 0], [0.48, 0.6, 0.64]):
            other = self.density(mol, dm, np.array(direction))
            assert np.allclose(along, other, rtol=1e-6, atol=1e-12), "a free atom must be spherical"
        shells = 4 * np.pi * self.radii**2 * along
        assert abs(np.trapezoid(shells, self.radii) - number) < 1e-3
        self.spline = CubicSpline(self.radii, np.log(along.clip(1e-300)))

    def density(self, mol: gto.Mole, dm: Array, direction: Array) -> Array:
        return density(mol, dm, self.radii[:, None] * direction)

    def log_density(self, r: Array) -> Array:
        """At distances in bohr; beyond the last, as at it."""
        return self.spline(r.clip(max=self.radii[-1]))


def density(mol: gto.Mole, dm: Array, points: Array) -> Array:
    """(P,) electrons per bohr^3 at points (P, 3) in bohr."""
    orbitals = mol.eval_gto("GTOval_sph", points)
    return ((orbitals @ dm) * orbitals).sum(1)


def converged(mol: gto.Mole) -> dft.rks.RKS:
    """Closed-shell Kohn-Sham.

    Raises:
        RuntimeError: it does not converge.
    """
    mf = dft.RKS(mol, xc=FUNCTIONAL).density_fit()
    mf.grids.level = SCF_GRID
    mf.conv_tol = CONVERGED
    mf.kernel()
    if not mf.converged:
        mf = mf.newton()
        mf.kernel()
    if not mf.converged:
        raise RuntimeError("the SCF does not converge")
    return mf


def hirshfeld(mol: gto.Mole, dm: Array, atoms: list[FreeAtom]) -> tuple[Array, Array]:
    """Charges (N,) in e and atomic dipoles (N, 3) in e bohr."""
    grids = dft.gen_grid.Grids(mol)
    grids.level = HIRSHFELD_GRID
    grids.build()
    charges, dipoles = mol.atom_charges().astype(float), np.zeros((mol.natm, 3))
    for begin in range(0, len(grids.weights), 20_000):
        points, weights = grids.coords[begin : begin + 20_000], grids.weights[begin : begin + 20_000]
        electrons = weights * density(mol, dm, points)
        arms = points - mol.atom_coords()[:, None]  # (N, P, 3)
        distances = np.linalg.norm(arms, axis=-1)
        logs = np.array([atom.log_density(r) for atom, r in zip(atoms, distances, strict=True)])
        shares = softmax(logs, axis=0) * electrons
        charges -= shares.sum(1)
        dipoles -= (shares[..., None] * arms).sum(1)
    return charges, dipoles


def compute(structure: Structure, free: dict[int, FreeAtom]) -> dict[str, Array]:
    """Everything stored of one structure, checked.

    Raises:
        RuntimeError: no convergence, or charges and dipoles that do not add up.
    """
    atoms = [(int(z), x) for z, x in zip(structure.numbers, structure.positions, strict=True)]
    mol = gto.M(atom=atoms, unit="Angstrom", basis=BASIS, spin=0, verbose=0)
    mf = converged(mol)
    charges, dipoles = hirshfeld(mol, mf.make_rdm1(), [free[int(z)] for z in structure.numbers])
    dipole = mf.dip_moment(unit="AU", verbose=0)
    added = charges @ mol.atom_coords() + dipoles.sum(0)
    errors = abs(charges.sum()), np.abs(added - dipole).max()
    if max(errors) > CHECKED:
        raise RuntimeError(f"charges add up to {errors[0]:.1e} e, the dipole is off by {errors[1]:.1e} e bohr")
    return {
        "positions": structure.positions,
        "hCHG": charges,
        "hVDIP": dipoles,
        "vDIP": dipole * nist.BOHR,
        "ePBE0": np.array(mf.e_tot * nist.HARTREE2EV),
        "charge_error": np.array(errors[0]),
        "dipole_error": np.array(errors[1]),
    }


# ---- the set ---------------------------------------------------------------------------------------------------------


def pack(path: Path, members: list[Structure], results: list[dict[str, Array]]) -> None:
    """One archive; units and keys of QM7-X, ragged arrays as everywhere in symkern."""
    about = {
        "method": f"{FUNCTIONAL.upper()}/{BASIS}, restricted, density fitting, SCF to {CONVERGED:g} Ha",
        "grids": f"PySCF level {SCF_GRID} in the SCF, level {HIRSHFELD_GRID} for Hirshfeld integrals",
        "geometry": "RDKit ETKDG, MMFF94; copies by classical thermal motion in the harmonic force field",
        "units": "pos Å; hCHG e; hVDIP e bohr; vDIP e Å; ePBE0 eV; temperature K",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("rdkit", "pyscf", "numpy", "scipy")),
        "script": "scripts/make_qm7x_stand_in.py",
    }
    np.savez_compressed(
        path,
        z=np.concatenate([s.numbers for s in members]).astype(np.int8),
        pos=np.concatenate([s.positions for s in members]),
        ptr=np.cumsum([0, *(len(s.numbers) for s in members)]),
        id=np.array([s.identity for s in members]),
        smiles=np.array([s.smiles for s in members]),
        molecule=np.array([s.molecule for s in members], dtype=np.int16),
        conformer=np.array([s.conformer for s in members], dtype=np.int16),
        temperature=np.array([s.temperature for s in members]),
        hCHG=np.concatenate([r["hCHG"] for r in results]),
        hVDIP=np.concatenate([r["hVDIP"] for r in results]),
        **{k: np.array([r[k] for r in results]) for k in ("vDIP", "ePBE0", "charge_error", "dipole_error")},
        **{f"about_{name}": np.array(text) for name, text in about.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stop", type=int)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    members = structures()
    free = {int(z): FreeAtom(int(z)) for z in np.unique(np.concatenate([s.numbers for s in members]))}
    begin, done = time.perf_counter(), 0
    for k, structure in enumerate(members[: arguments.stop]):
        file = arguments.work / f"{structure.identity}.npz"
        if file.exists() and np.array_equal(np.load(file)["positions"], structure.positions):
            continue
        result = compute(structure, free)
        part = file.with_suffix(".part.npz")
        np.savez(part, **result)
        os.replace(part, file)
        done += 1
        rate = (time.perf_counter() - begin) / done
        print(f"{k + 1}/{len(members)} {structure.identity} {structure.smiles}: {rate:.1f} s each", flush=True)
    if arguments.stop is None:
        pack(arguments.out, members, [dict(np.load(arguments.work / f"{s.identity}.npz")) for s in members])
        print(f"{arguments.out}: {len(members)} structures, {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

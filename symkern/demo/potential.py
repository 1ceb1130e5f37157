"""A pair potential on neighbor lists: energy, derivatives by torch, derivatives by finite differences, dynamics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase import units
from torch import Tensor

import symkern as sk


@dataclass(frozen=True)
class LennardJones:
    """4 eps ((sigma/d)^12 - (sigma/d)^6) (1 - (d/cutoff)^2)^3: twice differentiable where it ends; eV and Å."""

    epsilon: float
    sigma: float
    cutoff: float

    def energy(self, positions: Tensor, cell: Tensor, nb: sk.Neighbors) -> Tensor:
        """Total energy, eV. The list may hold pairs beyond the cutoff."""
        d = sk.safe_norm(sk.edge_vectors(positions, nb, cell))
        s6 = (self.sigma / d) ** 6
        fade = (1 - (d / self.cutoff) ** 2).clamp(min=0) ** 3
        # every pair is in the list twice
        return 0.5 * (4 * self.epsilon * (s6 * s6 - s6) * fade).sum()

    def energy_at(self, positions: Tensor, cell: Tensor) -> Tensor:
        """The same with a list built for these positions."""
        return self.energy(positions, cell, sk.neighbor_list(positions.detach(), self.cutoff, cell=cell.detach()))


# a model of molecules, not of water's structure: the size of a water molecule, bound by k T at 300 K
WATER_LIKE = LennardJones(epsilon=300 * units.kB, sigma=2.75, cutoff=6.9)
WATER_MASS = 18.015
ARGON = LennardJones(epsilon=0.0104, sigma=3.4, cutoff=8.0)


def gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """df/dx by the ops' own backward."""
    x = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x)
    return g


def hessian_times(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """(d2f/dx2) v by double backward."""
    x = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    (product,) = torch.autograd.grad((g * v).sum(), x)
    return product


def central(f: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, h: float = 1e-3) -> Tensor:
    """Derivative of f along `direction` by central differences of fourth order."""
    near = f(x + h * direction) - f(x - h * direction)
    far = f(x + 2 * h * direction) - f(x - 2 * h * direction)
    return (8 * near - far) / (12 * h)


def finite_gradient(f: Callable[[Tensor], Tensor], x: Tensor, entries: list[int]) -> Tensor:
    """Entries of df/dx, by flat index, by finite differences."""
    values = []
    for entry in entries:
        unit = torch.zeros_like(x)
        unit.view(-1)[entry] = 1
        values.append(central(f, x, unit))
    return torch.stack(values)


@dataclass(frozen=True)
class Trajectory:
    """Energies per step (eV per particle), and what the Verlet list did."""

    positions: Tensor
    total: np.ndarray
    kinetic: np.ndarray
    builds: list[int]
    seconds_per_step: float


def melt(
    positions: Tensor,
    cell: Tensor,
    steps: int,
    free: int,
    *,
    temperature: float = 300.0,
    dt: float = 5.0,
    skin: float = 1.0,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Trajectory:
    """Velocity Verlet of particles of WATER_LIKE: `steps` held at `temperature` (K), then `free` at constant energy.

    `dt` in fs. The neighbor list is reused until a particle has moved skin / 2.
    """
    lj, verlet, h = WATER_LIKE, sk.VerletList(WATER_LIKE.cutoff, skin), dt * units.fs
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(positions.shape, generator=generator, dtype=positions.dtype)

    def at_temperature(v: Tensor) -> Tensor:
        v = v - v.mean(0)
        return v * (3 * units.kB * temperature / (WATER_MASS * v.square().sum(1).mean())).sqrt()

    def evaluate(r: Tensor) -> tuple[float, Tensor]:
        r = r.detach().requires_grad_()
        energy = lj.energy(r, cell, verlet(r, cell=cell))
        (g,) = torch.autograd.grad(energy, r)
        return energy.item(), -g

    v = at_temperature(v)
    r, count, total, kinetic, builds = positions, len(positions), [], [], []
    _, force = evaluate(r)
    start = time.perf_counter()
    for step in range(steps + free):
        before = verlet.builds
        v = v + 0.5 * h / WATER_MASS * force
        r = r + h * v
        potential, force = evaluate(r)
        v = v + 0.5 * h / WATER_MASS * force
        if step < steps and step % 5 == 4:
            v = at_temperature(v)
        motion = 0.5 * WATER_MASS * v.square().sum().item()
        total.append((potential + motion) / count)
        kinetic.append(motion / count)
        if verlet.builds > before:
            builds.append(step)
        tick()
    seconds = (time.perf_counter() - start) / max(steps + free, 1)
    return Trajectory(r.detach(), np.array(total), np.array(kinetic), builds, seconds)

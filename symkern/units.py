"""Units of energy. Lengths are Å everywhere, so forces are in the energy's unit per Å and stresses per Å^3."""

from __future__ import annotations

_JOULE = 1 / 1.602176634e-19  # in eV; exact since the SI of 2019
_AVOGADRO = 6.02214076e23  # exact since the SI of 2019

# CODATA 2018 (Rev. Mod. Phys. 93, 025010); the calorie is the thermochemical one, 4.184 J
ENERGY_IN_EV = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": 27.211386245988,
    "kcal/mol": 4184 * _JOULE / _AVOGADRO,
    "kJ/mol": 1000 * _JOULE / _AVOGADRO,
}


def energy_factor(source: str, target: str) -> float:
    """How many `target` make one `source`: ``energy_factor("Ha", "eV")`` is 27.211...

    Args:
        source, target: names out of `ENERGY_IN_EV`.

    Raises:
        ValueError: a name that is not among them.
    """
    return (
        1.0 if check_energy_unit(source) == check_energy_unit(target) else ENERGY_IN_EV[source] / ENERGY_IN_EV[target]
    )


def check_energy_unit(unit: str, argument: str = "energy unit") -> str:
    """`unit`, if it is one of `ENERGY_IN_EV`; ValueError naming `argument` and the known units otherwise."""
    if not isinstance(unit, str) or unit not in ENERGY_IN_EV:
        raise ValueError(f"{argument} must be one of {', '.join(ENERGY_IN_EV)}, got {unit!r}")
    return unit

"""symkern: C++/CUDA kernels for neural networks on molecules, as differentiable, compilable torch ops.

Names load on first use, so that ``from symkern import host`` (NumPy only) never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that defines it; this is the one list of what symkern exports
_EXPORTS = {
    "neighbor_list": "symkern.ops.neighbor_list",
    "sort_batch": "symkern.ops.neighbor_list",
    "Neighbors": "symkern.neighbors",
    "VerletList": "symkern.verlet",
    "edge_vectors": "symkern.ops.edge_vectors",
    "safe_norm": "symkern.ops.safe_norm",
    "segment_sum": "symkern.ops.segment_sum",
    "segment_mean": "symkern.ops.segment_sum",
    "egnn_message": "symkern.ops.egnn_message",
    "cfconv": "symkern.ops.cfconv",
    "painn_message": "symkern.ops.painn_message",
    "Triplets": "symkern.ops.triplets",
    "triplets": "symkern.ops.triplets",
    "stabilizers": "symkern.ops.stabilizers",
    "Stabilizers": "symkern.stabilizer",
    "Element": "symkern.elements",
    "symmetrize": "symkern.ops.symmetrize",
    "symmetry_picture": "symkern.pointgroup.picture",
    "edge_angles": "symkern.ops.edge_angles",
    "spherical_basis": "symkern.ops.spherical_basis",
    "radial_basis": "symkern.ops.radial_basis",
    "chamfer": "symkern.ops.chamfer",
    "symmetric_mse": "symkern.ops.symmetric_mse",
    "symmetric_chamfer": "symkern.ops.symmetric_chamfer",
    "symmetric_loss": "symkern.ops.symmetric_loss",
    "emd": "symkern.ops.emd",
    "second_order_pool": "symkern.ops.second_order_pool",
    "reference_neighbors": "symkern.ops.reference_neighbors",
    "local_coordinates": "symkern.ops.local_coordinates",
    "local_angles": "symkern.ops.local_coordinates",
    "spherical_features": "symkern.ops.spherical_features",
    "SannGraphs": "symkern.sann",
    "sann_graphs": "symkern.sann",
    "sann_edge_features": "symkern.sann",
    "Canonical": "symkern.canonical",
    "canonical_frames": "symkern.ops.canonical_frames",
    "canonicalize": "symkern.ops.canonical_frames",
    "asymmetric_unit": "symkern.ops.canonical_frames",
    "energy_and_forces": "symkern.energy",
    "Potential": "symkern.potential",
    "load_potential": "symkern.potential",
    "Normalized": "symkern.normalized",
    "load_model": "symkern.normalized",
    "ModelFileError": "symkern.saved",
    "Calculator": "symkern.calculator",
    "reference_mode": "symkern._reference",
    "tabulated_cfconv": "symkern.ops.filter_table",
}
_MODULES = {"data", "host", "models", "nn", "ops", "testing", "training", "transforms", "units"}

__all__ = ["__version__", *sorted(_EXPORTS), *sorted(_MODULES)]

if TYPE_CHECKING:
    from symkern import data as data
    from symkern import host as host
    from symkern import models as models
    from symkern import nn as nn
    from symkern import ops as ops
    from symkern import testing as testing
    from symkern import training as training
    from symkern import transforms as transforms
    from symkern import units as units
    from symkern._reference import reference_mode as reference_mode
    from symkern.calculator import Calculator as Calculator
    from symkern.canonical import Canonical as Canonical
    from symkern.elements import Element as Element
    from symkern.energy import energy_and_forces as energy_and_forces
    from symkern.neighbors import Neighbors as Neighbors
    from symkern.normalized import Normalized as Normalized
    from symkern.normalized import load_model as load_model
    from symkern.ops.canonical_frames import asymmetric_unit as asymmetric_unit
    from symkern.ops.canonical_frames import canonical_frames as canonical_frames
    from symkern.ops.canonical_frames import canonicalize as canonicalize
    from symkern.ops.cfconv import cfconv as cfconv
    from symkern.ops.chamfer import chamfer as chamfer
    from symkern.ops.edge_angles import edge_angles as edge_angles
    from symkern.ops.edge_vectors import edge_vectors as edge_vectors
    from symkern.ops.egnn_message import egnn_message as egnn_message
    from symkern.ops.emd import emd as emd
    from symkern.ops.filter_table import tabulated_cfconv as tabulated_cfconv
    from symkern.ops.local_coordinates import local_angles as local_angles
    from symkern.ops.local_coordinates import local_coordinates as local_coordinates
    from symkern.ops.neighbor_list import neighbor_list as neighbor_list
    from symkern.ops.neighbor_list import sort_batch as sort_batch
    from symkern.ops.painn_message import painn_message as painn_message
    from symkern.ops.radial_basis import radial_basis as radial_basis
    from symkern.ops.reference_neighbors import reference_neighbors as reference_neighbors
    from symkern.ops.safe_norm import safe_norm as safe_norm
    from symkern.ops.second_order_pool import second_order_pool as second_order_pool
    from symkern.ops.segment_sum import segment_mean as segment_mean
    from symkern.ops.segment_sum import segment_sum as segment_sum
    from symkern.ops.spherical_basis import spherical_basis as spherical_basis
    from symkern.ops.spherical_features import spherical_features as spherical_features
    from symkern.ops.stabilizers import stabilizers as stabilizers
    from symkern.ops.symmetric_chamfer import symmetric_chamfer as symmetric_chamfer
    from symkern.ops.symmetric_loss import symmetric_loss as symmetric_loss
    from symkern.ops.symmetric_mse import symmetric_mse as symmetric_mse
    from symkern.ops.symmetrize import symmetrize as symmetrize
    from symkern.ops.triplets import Triplets as Triplets
    from symkern.ops.triplets import triplets as triplets
    from symkern.pointgroup.picture import symmetry_picture as symmetry_picture
    from symkern.potential import Potential as Potential
    from symkern.potential import load_potential as load_potential
    from symkern.sann import SannGraphs as SannGraphs
    from symkern.sann import sann_edge_features as sann_edge_features
    from symkern.sann import sann_graphs as sann_graphs
    from symkern.saved import ModelFileError as ModelFileError
    from symkern.stabilizer import Stabilizers as Stabilizers
    from symkern.verlet import VerletList as VerletList


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
    elif name in _MODULES:
        value = import_module(f"symkern.{name}")
    else:
        raise AttributeError(f"module 'symkern' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

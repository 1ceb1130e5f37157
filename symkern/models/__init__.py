"""Models: networks from atoms to properties, thin modules on `symkern.nn` without kernels of their own."""

from symkern.models import vector_outputs as vector_outputs
from symkern.models.asan import ASAN as ASAN
from symkern.models.coordinate_mlp import CoordinateMLP as CoordinateMLP
from symkern.models.dimenet import DimeNetPlusPlus as DimeNetPlusPlus
from symkern.models.egnn import EGNN as EGNN
from symkern.models.invariant_mlp import InvariantMLP as InvariantMLP
from symkern.models.painn import PaiNN as PaiNN
from symkern.models.sann import SANN as SANN
from symkern.models.schnet import SchNet as SchNet

__all__ = ["ASAN", "EGNN", "SANN", "CoordinateMLP", "DimeNetPlusPlus", "InvariantMLP", "PaiNN", "SchNet"]

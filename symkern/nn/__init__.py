"""Layers: thin torch modules on symkern's ops. Models are built of them."""

from symkern.nn.asan import LearnedRotation as LearnedRotation
from symkern.nn.asan import ScaledAngles as ScaledAngles
from symkern.nn.basic import ShiftedSoftplus as ShiftedSoftplus
from symkern.nn.basic import mlp as mlp
from symkern.nn.cfconv import CFConv as CFConv
from symkern.nn.egnn import EGNNLayer as EGNNLayer
from symkern.nn.painn import GatedEquivariantBlock as GatedEquivariantBlock
from symkern.nn.painn import PaiNNInteraction as PaiNNInteraction
from symkern.nn.painn import PaiNNMixing as PaiNNMixing
from symkern.nn.painn import unit_vectors as unit_vectors
from symkern.nn.radial import RadialBasis as RadialBasis
from symkern.nn.radial import cosine_cutoff as cosine_cutoff
from symkern.nn.sann import SANNLayer as SANNLayer
from symkern.nn.tabulated import TabulatedCFConv as TabulatedCFConv

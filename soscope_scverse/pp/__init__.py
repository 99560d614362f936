"""Preprocessing: partition of spots into subspots, spot graph, choice of genes."""

from soscope_scverse.pp._genes import spatial_genes
from soscope_scverse.pp._geometry import subspots
from soscope_scverse.pp._graphs import spot_graph

__all__ = ["spatial_genes", "spot_graph", "subspots"]

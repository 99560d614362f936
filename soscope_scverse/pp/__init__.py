"""Preprocessing: the division of spots into subspots and the graph of spots."""

from soscope_scverse.pp.geometry import subspots
from soscope_scverse.pp.graphs import spot_graph

__all__ = ["spot_graph", "subspots"]

"""Graph reconstruction losses at linear cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus


def graph_bce(
    embed: Callable[[Tensor], Tensor],
    n_nodes: int,
    edge_index: Tensor,
    edge_weight: Tensor,
    n_sampled: int | None = None,
    density: Tensor | float | None = None,
) -> Tensor:
    r"""Mean over all pairs i < j of BCE(w_ij, sigmoid(s_ij)), s_ij the inner product of two embeddings.

    BCE(w, sigmoid(s)) = softplus(s) - w s. The second term lives on the edges of the graph alone; the first is the mean
    over all pairs, which the pairs of `n_sampled` random nodes estimate without bias. So a step costs
    O(n_edges + n_sampled^2) instead of O(n_nodes^2) inner products, and only sampled nodes are embedded.

    Parameters
    ----------
    embed
        From indices of nodes to their embeddings, n x n_dimensions.
    n_nodes
        Nodes of the graph.
    edge_index
        2 x n_edges indices of nodes, every edge once.
    edge_weight
        n_edges weights in [0, 1]; all other pairs weigh 0.
    n_sampled
        Number of sampled nodes, and a quarter of the largest number of sampled edges; None or at least n_nodes gives
        the exact value.
    density
        Share of the pairs that are edges. Default: that of this graph. A part of a larger graph is denser than the
        whole; with the density of the whole, its edges represent all edges.
    """
    device, n_edges = edge_weight.device, edge_index.shape[1]
    nodes, edges = torch.arange(n_nodes, device=device), torch.arange(n_edges, device=device)
    if n_nodes < 2:
        return embed(nodes).sum() * 0
    if n_sampled is not None and n_sampled < n_nodes:
        nodes = torch.randperm(n_nodes, device=device)[:n_sampled]
        edges = torch.randperm(n_edges, device=device)[: 4 * n_sampled]
    if density is None:
        density = n_edges / (n_nodes * (n_nodes - 1) / 2)
    embedded, n = embed(nodes), len(nodes)
    all_pairs = (softplus(embedded @ embedded.T).sum() - softplus((embedded**2).sum(dim=1)).sum()) / (n * (n - 1))
    if not len(edges):
        return all_pairs
    i, j = edge_index[:, edges]
    inner = (embed(i) * embed(j)).sum(dim=1)
    return all_pairs - density * (edge_weight[edges] * inner).mean()

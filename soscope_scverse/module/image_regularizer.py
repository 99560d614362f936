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
    O(n_edges + n_sampled^2) instead of O(n_nodes^2) inner products, and embeds only the nodes that it looks at.

    Parameters
    ----------
    embed
        From numbers of nodes to their embeddings, n x n_dimensions.
    n_nodes
        Nodes of the graph.
    edge_index
        2 x n_edges numbers, every joined pair once.
    edge_weight
        n_edges weights in [0, 1]; all other pairs weigh 0.
    n_sampled
        Nodes of the sample, and a quarter of the most edges of a sample of edges; None or at least n_nodes is the exact
        value.
    density
        Share of the pairs that is joined. Default: that of this graph. A piece cut out of a larger graph has more of
        its pairs joined than the whole; given the density of the whole, its edges stand for all edges.
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
    seen, n = embed(nodes), len(nodes)
    all_pairs = (softplus(seen @ seen.T).sum() - softplus((seen**2).sum(dim=1)).sum()) / (n * (n - 1))
    if not len(edges):
        return all_pairs
    i, j = edge_index[:, edges]
    inner = (embed(i) * embed(j)).sum(dim=1)
    return all_pairs - density * (edge_weight[edges] * inner).mean()

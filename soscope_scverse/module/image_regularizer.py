"""Graph reconstruction losses at linear cost."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def graph_bce(
    embedding: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor,
    n_sampled: int | None = None,
    share: Tensor | float = 1.0,
) -> Tensor:
    r"""Mean over all pairs i < j of BCE(w_ij, sigmoid(s_ij)), s_ij the inner product of two embeddings.

    BCE(w, sigmoid(s)) = softplus(s) - w s. The second term lives on the edges of the graph alone; the first is the mean
    over all pairs, which the pairs of `n_sampled` random nodes estimate without bias. So a step costs
    O(n_edges + n_sampled^2) instead of O(n_nodes^2) inner products.

    Parameters
    ----------
    embedding
        n_nodes x n_dimensions.
    edge_index
        2 x n_edges rows, every joined pair once.
    edge_weight
        n_edges weights in [0, 1]; all other pairs weigh 0.
    n_sampled
        Nodes of the sample, and the most edges of a sample of edges; None or at least n_nodes is the exact value.
    share
        The nodes are this share of those of the whole graph, cut out as one piece: a piece has more of its pairs joined
        than the whole, so the edges are counted against all pairs of the whole.
    """
    n_nodes = len(embedding)
    if n_nodes < 2:
        return embedding.sum() * 0
    nodes = embedding
    edges, scale = torch.arange(edge_index.shape[1], device=embedding.device), 1.0
    if n_sampled is not None and n_sampled < n_nodes:
        nodes = embedding.index_select(0, torch.randperm(n_nodes, device=embedding.device)[:n_sampled])
        n_edges = min(len(edges), 4 * n_sampled)
        scale = len(edges) / max(n_edges, 1)
        edges = torch.randperm(len(edges), device=embedding.device)[:n_edges]
    n = len(nodes)
    all_pairs = (softplus(nodes @ nodes.T).sum() - softplus((nodes**2).sum(dim=1)).sum()) / (n * (n - 1))
    i, j = edge_index[:, edges]
    inner = (embedding.index_select(0, i) * embedding.index_select(0, j)).sum(dim=1)
    whole = n_nodes / share
    return all_pairs - scale * (edge_weight[edges] * inner).sum() / (share * whole * (whole - 1) / 2)

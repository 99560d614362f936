"""Graph reconstruction losses at linear cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

_VANISHES = -20.0
_TINY = 1e-6


def graph_bce(
    embed: Callable[[Tensor], Tensor],
    n_nodes: int,
    edge_index: Tensor,
    edge_weight: Tensor,
    n_sampled: int | None = None,
    density: Tensor | float | None = None,
    *,
    sizes: Sequence[int] | None = None,
    diagonal: Tensor | float = 0.0,
) -> Tensor:
    r"""Mean over all pairs i < j of BCE(w_ij, L_ij), L_ij = sigmoid(s_ij), s_ij the inner product of two embeddings.

    BCE(w, sigmoid(s)) = softplus(s) - w s. The second term lives on the edges of the graph alone; the first is the mean
    over all pairs, which the pairs of `n_sampled` random nodes estimate without bias. So a step costs
    O(n_edges + n_sampled^2) instead of O(n_nodes^2) inner products, and only sampled nodes are embedded.

    Several modalities are joined as soScope joins them, two by L = L_p + L_g - L_p L_g, so 1 - L is the product of all
    1 - L_p. Then BCE(w, L) = t - w log(exp(t) - 1) with t the sum of softplus(s_p), and the cost is the same.

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
    sizes
        Dimensions of the embedding that belong to each modality. Default: one modality.
    diagonal
        Share of the diagonal among the pairs, 1 / n_nodes for all pairs (i, j) of both orders; each node has weight 1
        with itself. 0 excludes the diagonal.
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
    parts, n = _parts(embed(nodes), sizes), len(nodes)
    both_orders = _total_softplus([part @ part.T for part in parts]).sum()
    own = [(part**2).sum(dim=1) for part in parts]
    all_pairs = (both_orders - _total_softplus(own).sum()) / (n * (n - 1))
    if len(edges):
        i, j = edge_index[:, edges]
        ends = zip(_parts(embed(i), sizes), _parts(embed(j), sizes), strict=True)
        logit = _joint_logit([(a * b).sum(dim=1) for a, b in ends])
        all_pairs = all_pairs - density * (edge_weight[edges] * logit).mean()
    if isinstance(diagonal, float) and diagonal == 0:
        return all_pairs
    return (1 - diagonal) * all_pairs - diagonal * logsigmoid(_joint_logit(own)).mean()


def _parts(embedded: Tensor, sizes: Sequence[int] | None) -> Sequence[Tensor]:
    """Embedding of every modality."""
    return (embedded,) if sizes is None else embedded.split(list(sizes), dim=1)


def _total_softplus(inner: Sequence[Tensor]) -> Tensor:
    """-log(1 - L) from the inner products s_p of the modalities: the sum of softplus(s_p)."""
    return sum(map(softplus, inner[1:]), softplus(inner[0]))


def _joint_logit(inner: Sequence[Tensor]) -> Tensor:
    """Logit of L from the inner products s_p of the modalities: log(exp(t) - 1) with t = -log(1 - L)."""
    if len(inner) == 1:
        return inner[0]
    terms, t = torch.stack(list(inner)), _total_softplus(inner)
    # softplus(s) is exp(s) where that vanishes beside 1 in single precision
    log_t = torch.where(terms < _VANISHES, terms, softplus(terms.clamp(min=_VANISHES)).log()).logsumexp(dim=0)
    small, large = t.clamp(_TINY, 1), t.clamp(min=1)
    return torch.where(t < 1, log_t + (small.expm1() / small).log(), large + torch.log1p(-(-large).exp()))

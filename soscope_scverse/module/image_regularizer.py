"""Graph reconstruction losses at linear cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, logsigmoid, softplus

from soscope_scverse.module.negative_binomial import row_blocks

_VANISHES = -20.0
_TINY = 1e-6


class Pairs(NamedTuple):
    """The pairs of nodes that a step sees: those of some nodes with each other, and some edges."""

    rows: Tensor
    """The nodes of all pairs, each once."""
    nodes: Tensor
    """n_sampled of `rows`, by their number."""
    ends: Tensor
    """2 x n_edges of `rows`, by their number."""
    weight: Tensor
    """n_edges weights."""


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
    pairs = sample_pairs(n_nodes, edge_index, edge_weight, n_sampled)
    if density is None:
        density = edge_index.shape[1] / max(n_nodes * (n_nodes - 1) / 2, 1)
    return pairs_bce(embed(pairs.rows), pairs, density, sizes=sizes, diagonal=diagonal)


def sample_pairs(n_nodes: int, edge_index: Tensor, edge_weight: Tensor, n_sampled: int | None) -> Pairs:
    """Sample the pairs of a step, see :func:`graph_bce`."""
    device, n_edges = edge_weight.device, edge_index.shape[1]
    nodes, edges = torch.arange(n_nodes, device=device), torch.arange(n_edges, device=device)
    if n_sampled is not None and n_sampled < n_nodes:
        nodes = torch.randperm(n_nodes, device=device)[:n_sampled]
        edges = torch.randperm(n_edges, device=device)[: 4 * n_sampled]
    ends = edge_index[:, edges]
    rows, number = torch.cat([nodes, ends.flatten()]).unique(return_inverse=True)
    return Pairs(rows, number[: len(nodes)], number[len(nodes) :].view(2, -1), edge_weight[edges])


def pairs_bce(
    embedded: Tensor,
    pairs: Pairs,
    density: Tensor | float,
    *,
    sizes: Sequence[int] | None = None,
    diagonal: Tensor | float = 0.0,
) -> Tensor:
    """Estimate :func:`graph_bce` from the embeddings of ``pairs.rows``, n_rows x n_dimensions."""
    n = len(pairs.nodes)
    if n < 2:
        return embedded.sum() * 0
    with torch.autocast(embedded.device.type, enabled=False):  # sums over many features
        products = [_InnerProducts.apply(part, pairs.nodes, pairs.ends) for part in _parts(embedded.float(), sizes)]
    inner, of_edges = zip(*products, strict=True)
    own = [products.diagonal() for products in inner]
    all_pairs = (_total_softplus(inner).sum() - _total_softplus(own).sum()) / (n * (n - 1))
    if len(pairs.weight):
        all_pairs = all_pairs - density * (pairs.weight * _joint_logit(of_edges)).mean()
    if isinstance(diagonal, float) and diagonal == 0:
        return all_pairs
    return (1 - diagonal) * all_pairs - diagonal * logsigmoid(_joint_logit(own)).mean()


class _InnerProducts(torch.autograd.Function):
    """Of all pairs of some embeddings, and of the ends of edges; the gradient in one pass over memory."""

    @staticmethod
    def forward(ctx: Any, embedded: Tensor, nodes: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        of_edges = embedded.new_empty(ends.shape[1])
        for some in row_blocks(len(of_edges), embedded.shape[1], embedded.device):
            first, second = (embedded.index_select(0, end[some]) for end in ends)
            torch.sum(first.mul_(second), dim=1, out=of_edges[some])
        chosen = embedded.index_select(0, nodes)
        ctx.save_for_backward(embedded, chosen, nodes, ends)
        return chosen @ chosen.T, of_edges

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_inner: Tensor, of_edges: Tensor) -> tuple[Tensor, None, None]:
        embedded, chosen, nodes, ends = ctx.saved_tensors
        # every end gets the other one: sums over the edges of a node
        here, order = ends.flatten().sort(stable=True)
        first = torch.searchsorted(here, torch.arange(len(embedded), device=here.device))
        gradient = embedding_bag(
            ends.flip(0).flatten()[order],
            embedded,
            first,
            mode="sum",
            per_sample_weights=of_edges.repeat(2)[order],
        )
        # in mixed precision products are of half precision
        of_nodes = (of_inner + of_inner.T).to(chosen) @ chosen
        return gradient.index_add_(0, nodes, of_nodes.to(gradient)), None, None


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

"""The generative model of soScope, and the graph auto-encoder that pre-trains its encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import embedding_bag

from soscope_scverse._keys import WEAK_IMAGE
from soscope_scverse.module.graph_encoder import GraphEncoder
from soscope_scverse.module.image_regularizer import Pairs, graph_bce, pairs_bce, sample_pairs
from soscope_scverse.module.kriged_field import KrigedField
from soscope_scverse.module.likelihoods import Likelihood, Spots, Start, Subspots, has_log_means, joint_likelihood
from soscope_scverse.module.spot_means import HiddenSubspots
from soscope_scverse.module.subspot_decoder import DECODERS

Tensors = dict[str, Tensor]
_TINY = 1e-8  # area of padding

KRIGED_WEIGHT = 0.5
"""Weight of the kriged field in the result; the networks have the rest."""

N_RESIDUALS = 32
"""Number of patterns of features in the residual of a subspot."""


def modality_weights(sizes: Sequence[int]) -> Tensor:
    """Weight of the features of every modality in the loss: modalities have equal weight for any number of features.

    The weights of all features add up to their number, so that the KL divergence keeps its relative weight.

    Parameters
    ----------
    sizes
        Number of features of every modality.

    Returns
    -------
    n_modalities weights.
    """
    size = torch.as_tensor(sizes, dtype=torch.float32)
    return size.sum() / (len(sizes) * size)


def _rows(normal: Normal, rows: Tensor) -> Normal:
    return Normal(normal.loc[rows], normal.scale[rows], validate_args=False)


def subspots_of(likelihood: Likelihood, effect: Tensor, start: Start, tensors: Tensors) -> Subspots:
    """Parameters of the subspots from their effects, n_spots x n_subspots x n_features, exposures and areas."""
    exposure = tensors["exposure"]
    area = tensors.get("area", exposure)
    subspots = likelihood.parameters(effect, start, area)
    if "area" in tensors:
        subspots = likelihood.with_measured(subspots, (exposure / area.clamp(min=_TINY)).unsqueeze(-1))
    return subspots


class _GraphModule(BaseModuleClass):
    """Common part of both phases: the encoder, its input and the masked spots.

    Parameters
    ----------
    sizes
        Number of features of every modality of a spot's profile.
    likelihood
        Likelihood of the profiles.
    masked
        Share of the spots that is masked in the input of the encoder at every training step.
    n_graph_samples
        Nodes sampled by the graph losses.
    n_batches
        Number of batches, each with its own effects on the features; 0 without a batch covariate.
    loss_per
        See :class:`SoScopeVAE`.
    """

    encoder: GraphEncoder

    def __init__(
        self,
        sizes: Sequence[int],
        likelihood: Likelihood,
        masked: float,
        n_graph_samples: int | None,
        n_batches: int = 0,
        loss_per: Literal["feature", "spot"] = "feature",
    ) -> None:
        super().__init__()
        n_features = sum(sizes)
        self.sizes = list(sizes)
        self.n_features = n_features
        self.likelihood = likelihood
        self.masked = masked
        self.n_graph_samples = n_graph_samples
        self.baseline = nn.Parameter(torch.zeros(n_features))
        self.log_dispersion = nn.Parameter(torch.zeros(n_features), requires_grad=likelihood.has_dispersion)
        self.batch_effect = nn.Parameter(torch.zeros(n_batches, n_features)) if n_batches else None
        self.loss_per = loss_per
        equal = loss_per == "feature"
        self.register_buffer("modality_weight", modality_weights(sizes) if equal else torch.ones(len(sizes)))
        self.register_buffer("library_size_noise", torch.zeros(len(sizes)))
        self.register_buffer("unit", torch.ones(n_features))
        self.register_buffer("input_mean", torch.zeros(n_features))
        self.register_buffer("input_scale", torch.ones(n_features))

    @property
    def features(self) -> list[slice]:
        """Columns of a profile that belong to each modality."""
        ends = list(accumulate(self.sizes))
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    @torch.no_grad()
    def start_from(self, x: Tensor, size: Tensor, batch: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Set the feature parameters and the standardisation of the encoder's input from some spots.

        Batch effects start at the differences of the means, so that latent states need not model them; one additional
        typical spot in each batch bounds the effects on features without counts in a small batch.

        Parameters
        ----------
        x
            n_spots x n_features profiles.
        size
            n_spots x 1 relative sizes.
        batch
            n_spots x n_batches shares, with a batch covariate.
        noise
            n_features variances that neighbouring spots do not share; None keeps the default of the likelihood.
        """
        x = self.likelihood.at_mean_size(x, size)
        start = self.likelihood.start(x)
        if noise is not None:
            start = self.likelihood.with_noise(start, noise)
        self.baseline.copy_(start.baseline)
        self.log_dispersion.copy_(start.log_dispersion)
        self.unit.copy_(start.unit)
        transformed = self.transform(x)
        self.input_mean.copy_(transformed.mean(dim=0))
        self.input_scale.copy_(transformed.std(dim=0, correction=0).clamp(min=1e-3))
        if self.batch_effect is not None and batch is not None:
            typical = x.mean(dim=0, keepdim=True)
            for effect, member in zip(self.batch_effect, batch.T.bool(), strict=True):
                effect.copy_(self.likelihood.offset(torch.cat([x[member], typical]), start))

    def transform(self, x: Tensor) -> Tensor:
        """Profiles on the scale on which effects add up, before standardisation."""
        return self.likelihood.transform(x, self.unit)

    @torch.no_grad()
    def scale_library_size(self, factor: float) -> None:
        """Rescale the parameters of counts to library sizes `factor` times as large."""
        self.baseline.add_(math.log(factor))
        self.log_dispersion.add_(math.log(factor))
        self.unit.mul_(factor)

    def with_batch(self, effect: Tensor, batch: Tensor | None) -> Tensor:
        """Effects, n_spots x n_subspots x n_features, plus those of the spots' batches, n_spots x n_batches shares."""
        if self.batch_effect is None or batch is None:
            return effect
        return effect + (batch @ self.batch_effect).unsqueeze(1)

    def feature_parameters(self) -> Start:
        """Current feature parameters."""
        return Start(self.baseline, self.log_dispersion.clamp(-8, 8), self.unit)

    def feature_weight(self) -> Tensor:
        """Weight of every feature in the loss: that of its modality."""
        return self._by_feature(self.modality_weight)

    def _by_feature(self, values: Tensor | Sequence[float]) -> Tensor:
        """Values of the modalities, one for each of their features."""
        values = torch.as_tensor(values)
        return values.repeat_interleave(torch.as_tensor(self.sizes, device=values.device))

    def _get_inference_input(self, tensors: Tensors, **kwargs: Any) -> dict[str, Any]:
        return {"tensors": tensors}

    @auto_move_data
    def inference(self, tensors: Tensors, **kwargs: Any) -> dict[str, Any]:
        """Latent state of the spots: ``qz`` and ``z``, a sample from it in training and its mean otherwise."""
        profile = (
            self.transform(self.likelihood.at_mean_size(tensors["x"], tensors["size"])) - self.input_mean
        ) / self.input_scale
        hidden = tensors.get("hidden")
        masked = (
            torch.zeros(len(profile), dtype=torch.bool, device=profile.device) if hidden is None else hidden.clone()
        )
        if self.training:
            masked[torch.randperm(len(profile), device=profile.device)[: int(self.masked * len(profile))]] = True
        qz = self.encoder(profile, masked, tensors["edge_index"], tensors["edge_weight"], tensors.get("input_batch"))
        return {"qz": qz, "z": qz.rsample() if self.training else qz.mean}

    def _get_generative_input(self, tensors: Tensors, inference_outputs: dict, **kwargs: Any) -> dict[str, Any]:
        return {"tensors": tensors, "z": inference_outputs["z"]}

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """Raise a RuntimeError: the likelihoods sample."""
        msg = "Use `SoScope.sample_enhanced(...)` for posterior samples."
        raise RuntimeError(msg)

    def _loss_output(
        self, nll: Tensor, size_penalty: Tensor, qz: Normal, kl_weight: float, **terms: Tensor
    ) -> LossOutput:
        """Loss per spot and feature, so that weights are comparable between panels, or per spot (soScope, Eq. 6).

        Parameters
        ----------
        nll
            n_spots x n_features negative log likelihoods.
        size_penalty
            n_spots x n_modalities negative log probabilities of the library sizes.
        qz
            Latent states of the spots.
        kl_weight
            Weight of the KL divergence.
        **terms
            Further terms by name.
        """
        kl = kl_divergence(qz, Normal(torch.zeros_like(qz.loc), torch.ones_like(qz.scale))).sum(dim=1)
        reconstruction = nll @ self.feature_weight() + size_penalty @ self.modality_weight
        n_units = self.n_features if self.loss_per == "feature" else 1
        loss = (reconstruction + kl_weight * kl).mean() / n_units + sum(terms.values())
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local=kl,
            n_obs_minibatch=len(nll),
            extra_metrics={name: term.detach() for name, term in terms.items()},
        )


class GraphAutoencoder(_GraphModule):
    """Phase one: variational graph auto-encoder of the spots (soScope, Methods, "pre-training").

    Parameters
    ----------
    encoder
        The encoder to pre-train; shared with :class:`SoScopeVAE`.
    sizes, likelihood
        See :class:`SoScopeVAE`.
    n_latent, n_hidden
        Widths of the node decoder.
    masked, n_graph_samples, n_batches, loss_per
        See :class:`SoScopeVAE`.
    """

    def __init__(
        self,
        encoder: GraphEncoder,
        sizes: Sequence[int],
        likelihood: Likelihood,
        *,
        n_latent: int,
        n_hidden: int,
        masked: float,
        n_graph_samples: int | None,
        n_batches: int = 0,
        loss_per: Literal["feature", "spot"] = "feature",
    ) -> None:
        super().__init__(sizes, likelihood, masked, n_graph_samples, n_batches, loss_per)
        self.encoder = encoder
        self.decoder = nn.Sequential(nn.Linear(n_latent, n_hidden), nn.ReLU(), nn.Linear(n_hidden, self.n_features))

    @auto_move_data
    def generative(self, tensors: Tensors, z: Tensor, **kwargs: Any) -> dict[str, Spots]:
        """Parameters of the spots' profiles: a spot is its own and only subspot."""
        effect = self.with_batch(self.decoder(z).float().unsqueeze(1), tensors.get("input_batch"))
        subspots = self.likelihood.parameters(effect, self.feature_parameters(), tensors["size"])
        return {"spots": self.likelihood.aggregate(subspots)}

    def loss(
        self, tensors: Tensors, inference_outputs: dict, generative_outputs: dict, kl_weight: float = 1.0
    ) -> LossOutput:
        """Negative log likelihood of profiles and graph plus KL divergence from the prior."""
        own = tensors["own"]
        x = tensors["x"][own]
        spots = Spots(*(values if values.dim() == 1 else values[own] for values in generative_outputs["spots"]))
        spots, size_penalty = self.likelihood.absorb_library_size(x, spots, self.library_size_noise)
        nll = -self.likelihood.log_prob(x, spots)
        z = inference_outputs["z"] / inference_outputs["z"].shape[1] ** 0.5
        graph = graph_bce(
            lambda spots: z.index_select(0, own[spots]),
            len(own),
            *self._own_edges(tensors),
            self.n_graph_samples,
            tensors["edge_density"],
        )
        qz = _rows(inference_outputs["qz"], own)
        return self._loss_output(nll, size_penalty, qz, kl_weight, graph_loss=graph)

    @staticmethod
    def _own_edges(tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Edges between own spots, every pair once, as indices of the own spots."""
        row = torch.full((len(tensors["x"]),), -1, device=tensors["x"].device)
        row[tensors["own"]] = torch.arange(len(tensors["own"]), device=row.device)
        i, j = row[tensors["edge_index"]]
        once = (i >= 0) & (i < j)
        return torch.stack([i, j])[:, once], tensors["edge_weight"][once]


class SoScopeVAE(_GraphModule):
    """Generative model of the subspots' profiles (soScope, Eqs. 1 to 7).

    Parameters
    ----------
    modalities
        Name of the likelihood and number of features of every modality; profiles are their concatenation.
    n_image_features
        Width of the image features; 0 without an image.
    n_image_components
        Largest number of inputs of the networks from the image; wider features have been projected.
    aggregate, sigma, dispersion, observation
        See :class:`~soscope_scverse.model.SoScope`.
    n_latent, n_hidden, n_layers
        Dimensions of the latent state, width of the networks, layers of the encoder.
    decoder
        ``"shift"`` or ``"joint"``.
    uses_latent
        False excludes the latent states from the decoder, so that profiles follow from the image alone.
    feature_dropout
        Share of the image features dropped at every step.
    masked
        Share of the spots that is masked in the input of the encoder at every training step.
    image_weight
        beta, weight of the image regulariser.
    n_graph_samples
        Nodes sampled by the graph losses; None evaluates them exactly.
    n_batches
        Number of batches, each with its own effect on every feature; 0 without a batch covariate.
    image_deviation, loss_per
        See :class:`~soscope_scverse.model.SoScope`.
    """

    def __init__(
        self,
        modalities: Sequence[tuple[str, int]],
        n_image_features: int,
        *,
        n_image_components: int,
        aggregate: Literal["sum", "mean"] | None,
        sigma: float | None,
        dispersion: Literal["feature", "subspot", "shape"],
        observation: Literal["matched", "gaussian"],
        n_latent: int,
        n_hidden: int,
        n_layers: int,
        decoder: Literal["shift", "joint"],
        uses_latent: bool,
        feature_dropout: float,
        masked: float,
        image_weight: float,
        n_graph_samples: int | None,
        n_batches: int = 0,
        image_deviation: Literal["relative", "observed", "overall"] = "relative",
        loss_per: Literal["feature", "spot"] = "feature",
    ) -> None:
        matched_sigma = sigma or 0.0 if observation == "matched" else 0.0
        super().__init__(
            [size for _, size in modalities],
            joint_likelihood(modalities, aggregate=aggregate, sigma=matched_sigma),
            masked,
            n_graph_samples,
            n_batches,
            loss_per,
        )
        self.per_subspot_dispersion = dispersion != "feature" and self.likelihood.has_dispersion
        parts = self.likelihood.parts
        has_shape = [float(dispersion == "shape" and part.is_counts and part.has_dispersion) for part in parts]
        is_gaussian = [float(not part.is_counts) for part in parts]
        self.register_buffer("has_shape", self._by_feature(has_shape), persistent=False)
        self.register_buffer("is_gaussian", self._by_feature(is_gaussian), persistent=False)
        self.any_shape, self.any_gaussian = any(has_shape), any(is_gaussian)
        self.image_deviation = image_deviation
        self.has_log_means = (
            has_log_means(self.likelihood) and not self.per_subspot_dispersion and image_deviation == "relative"
        )
        self.observation_sigma = (1.0 if sigma is None else sigma) if observation == "gaussian" else None
        self.image_weight = image_weight if n_image_features else 0.0
        self.uses_latent = uses_latent
        self.encoder = GraphEncoder(self.n_features, n_latent, n_hidden, n_layers, n_batches)
        n_outputs = self.n_features * (2 if self.per_subspot_dispersion else 1)
        n_seen = min(n_image_features, n_image_components)
        self.decoder = DECODERS[decoder](n_latent, n_seen, n_outputs, n_hidden, feature_dropout)
        self.kriged = KrigedField(self.n_features, n_seen)
        self.register_buffer("image_strength", torch.tensor(float(bool(n_image_features))))
        self.register_buffer("image_mean", torch.zeros(n_image_features))
        self.register_buffer("image_projection", torch.eye(n_image_features, n_seen))
        # residual variation of the subspots for posterior samples; not used in training
        self.register_buffer("residual_loadings", torch.zeros(N_RESIDUALS, self.n_features))
        self.register_buffer("residual_length", torch.ones(len(modalities)))

    @property
    def uses_image(self) -> bool:
        """Whether the decoder has image features as input."""
        return len(self.image_mean) > 0

    @property
    def image_share(self) -> float:
        """Share of the training steps that use the image, and of its effect on the kriged field.

        It is 0 if the image is most likely not informative, and 1 if it is more likely informative than not.
        """
        return min(1.0, max(0.0, (self.image_strength.item() - WEAK_IMAGE) / (0.5 - WEAK_IMAGE)))

    @auto_move_data
    def generative(self, tensors: Tensors, z: Tensor, **kwargs: Any) -> dict[str, Any]:
        """From latent states `z` of all inputs: the parameters of the own subspots, and whether the image is used."""
        uses_image = not self.training or self._step_uses_image()
        if not uses_image:
            tensors = {name: value for name, value in tensors.items() if name != "features"}
        return {"subspots": self._subspots(tensors, z), "uses_image": uses_image}

    def _step_uses_image(self) -> bool:
        """Whether a training step uses the image.

        Without an image a random number is drawn, too. So the training with an image that is not informative is the
        training without an image.
        """
        return self.image_share == 1 or torch.rand(()).item() < self.image_share

    def _subspots(self, tensors: Tensors, z: Tensor) -> Subspots | HiddenSubspots:
        hidden = self.decoder.hidden(*self._decoder_input(tensors, z))
        # not in mixed precision, nor where the result is wanted and not its gradient
        if self.training and self.has_log_means and "kriged" not in tensors and hidden.dtype == self.baseline.dtype:
            return self._hidden_subspots(tensors, hidden)
        effect, start = self._effects(tensors, hidden)
        return subspots_of(self.likelihood, effect, start, tensors)

    def _hidden_subspots(self, tensors: Tensors, hidden: Tensor) -> HiddenSubspots:
        """The subspots before the last layer of the decoder; effects of batches are further inputs of it."""
        weight, exposure = self.decoder.head.weight, tensors["exposure"]
        if self.batch_effect is not None and "batch" in tensors:
            hidden = torch.cat([hidden, tensors["batch"].repeat_interleave(exposure.shape[1], dim=0)], dim=1)
            weight = torch.cat([weight, self.batch_effect.T], dim=1)
        return HiddenSubspots(hidden, weight, self.decoder.head.bias, self.baseline, exposure)

    def effects(self, tensors: Tensors, z: Tensor) -> tuple[Tensor, Start]:
        """Effects on the own subspots, n_spots x n_subspots x n_features, and the parameters of the features."""
        return self._effects(tensors, self.decoder.hidden(*self._decoder_input(tensors, z)))

    def _effects(self, tensors: Tensors, hidden: Tensor) -> tuple[Tensor, Start]:
        n_spots, n_subspots = tensors["exposure"].shape
        effect = self.decoder.head(hidden).float().view(n_spots, n_subspots, -1)
        start = self.feature_parameters()
        if self.per_subspot_dispersion:
            effect, relative = effect.split(self.n_features, dim=-1)
            log_dispersion = (start.log_dispersion + relative).clamp(-8, 8)
            # counts of shape r: the mean is r phi, and r has the baseline
            baseline = start.baseline + self.has_shape * log_dispersion if self.any_shape else start.baseline
            start = start._replace(baseline=baseline, log_dispersion=log_dispersion)
        effect = self.with_batch(effect, tensors.get("batch"))
        if "kriged" in tensors:
            effect = torch.lerp(effect, self.kriged_effect(tensors["kriged"], start), KRIGED_WEIGHT)
        return effect, start

    def subspot_states(self, tensors: Tensors, z: Tensor) -> Tensor:
        """Latent states of the subspots as the decoder reads them, (n_spots * n_subspots) x n_latent."""
        return self.decoder.state(*self._decoder_input(tensors, z))

    def _decoder_input(self, tensors: Tensors, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latent states interpolated to the subspots, and their image features."""
        z_k = embedding_bag(
            tensors["neighbors"].flatten(0, 1),
            z,
            per_sample_weights=tensors["neighbor_weights"].flatten(0, 1),
            mode="sum",
        )
        if not self.uses_latent:
            z_k = torch.zeros_like(z_k)
        if "features" not in tensors:
            return z_k, None
        features = tensors["features"].flatten(0, 1)
        return z_k, features if self.training else self.image_strength * features

    @torch.no_grad()
    def scale_library_size(self, factor: float) -> None:
        """Rescale the parameters of counts, those of the kriged field included; shapes do not depend on it."""
        super().scale_library_size(factor)
        self.baseline.sub_(math.log(factor) * self.has_shape)
        self.kriged.unit.mul_(factor)

    def kriged_effect(self, components: Tensor, start: Start) -> Tensor:
        """Effects, n_spots x n_subspots x n_features, of a kriged field, n_spots x n_subspots x n_components.

        `start` holds the feature parameters that they are effects on.
        """
        values = self.kriged.transformed(components)
        return self.likelihood.effect_of(values, self.kriged.unit, start) + self.kriged.level

    def loss(
        self, tensors: Tensors, inference_outputs: dict, generative_outputs: dict, kl_weight: float = 1.0
    ) -> LossOutput:
        """Negative evidence lower bound plus the image regulariser (soScope, Eq. 6)."""
        x = tensors["x"][tensors["own"]]
        pairs = self._image_pairs(tensors) if generative_outputs["uses_image"] else None
        spots, deviations = self._spots(generative_outputs["subspots"], x, tensors, pairs)
        terms = {}
        if pairs is not None:
            terms["image_loss"] = self.image_weight * self._image_loss(deviations, pairs, tensors)
        elif self.image_weight and self.image_share > 0 and "image_edge_index" in tensors:
            terms["image_loss"] = x.new_zeros(())  # another process may use the image in this step
        spots, size_penalty = self.likelihood.absorb_library_size(x, spots, self.library_size_noise)
        if "x_held_out" in tensors:
            odds = tensors["held_out_odds"]  # of a molecule to be held out: counts and phi scale with it
            x, spots = tensors["x_held_out"], Spots(spots.mean * odds, spots.dispersion * odds)
        qz = _rows(inference_outputs["qz"], tensors["own"])
        return self._loss_output(-self._observed(x, spots), size_penalty, qz, kl_weight, **terms)

    def _spots(
        self, subspots: Subspots | HiddenSubspots, x: Tensor, tensors: Tensors, pairs: Pairs | None
    ) -> tuple[Spots, Tensor]:
        """Parameters of the spots, and deviations of the subspots that the image regulariser compares.

        They are per unit of area, from the evenly partitioned predicted spot, and do not grow with library size or
        number of subspots; or those of soScope's Eq. 5.
        """
        valid = tensors["valid"]
        rows = valid[:0] if pairs is None else valid[pairs.rows]
        # per typical value of the feature and averaged over features: inner products do not grow with their number
        unit = self.unit * (self.n_features / self.feature_weight()) ** 0.5
        if isinstance(subspots, HiddenSubspots):
            mean, deviations = subspots.means(rows, unit)
            return Spots(mean, self.feature_parameters().log_dispersion.exp()), deviations
        spots = self.likelihood.aggregate(self.likelihood.captured(subspots))
        if self.image_deviation != "relative":
            return spots, self._absolute_deviation(subspots, x, rows, tensors)
        mean, exposure = subspots.mean.flatten(0, 1), subspots.exposure.flatten(0, 1)
        chosen = Subspots(mean.index_select(0, rows), subspots.dispersion, exposure.index_select(0, rows))
        spot = self.likelihood.at_mean_size(spots.mean, tensors["exposure"].sum(dim=1, keepdim=True))
        spot = spot.index_select(0, rows.div(subspots.mean.shape[1], rounding_mode="floor"))
        return spots, (self.likelihood.rate(chosen) - spot) / unit

    def _observed(self, x: Tensor, spots: Spots) -> Tensor:
        """Log probability of the observed spots; with a Gaussian observation its expectation over Gaussian subspots."""
        if self.observation_sigma is None:
            return self.likelihood.log_prob(x, spots)
        log_prob = Normal(spots.mean, self.observation_sigma, validate_args=False).log_prob(x)
        if not self.any_gaussian:
            return log_prob
        return log_prob - self.is_gaussian * spots.dispersion / (2 * self.observation_sigma**2)

    def _image_pairs(self, tensors: Tensors) -> Pairs | None:
        """The pairs of subspots that the image regulariser compares in this step."""
        n_subspots = len(tensors["valid"])
        if not self.image_weight or "image_edge_index" not in tensors or n_subspots < 2:
            return None
        return sample_pairs(n_subspots, tensors["image_edge_index"], tensors["image_edge_weight"], self.n_graph_samples)

    def _image_loss(self, deviations: Tensor, pairs: Pairs, tensors: Tensors) -> Tensor:
        """Favour similar deviations for subspots of similar image features."""
        relative = self.image_deviation == "relative"
        return pairs_bce(
            deviations,
            pairs,
            tensors["image_edge_density"],
            sizes=None if relative else self.sizes,
            diagonal=0.0 if relative else 1 / tensors["n_targets"],
        )

    def _absolute_deviation(self, subspots: Subspots, x: Tensor, rows: Tensor, tensors: Tensors) -> Tensor:
        """Deviations in the unit of the data (soScope, Eq. 5): from the observed spot / K, or from the mean subspot."""
        if self.image_deviation == "overall":
            mean = subspots.mean.flatten(0, 1)
            return mean.index_select(0, rows) - mean.index_select(0, tensors["valid"]).mean(dim=0)
        centre = self.likelihood.divided(x, tensors["exposure"].unsqueeze(-1))
        difference = self.likelihood.captured(subspots).mean - centre
        return difference.flatten(0, 1).index_select(0, rows)

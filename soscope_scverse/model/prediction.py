"""From a trained module to the AnnData of subspots."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse.data.tiles import Tiles, contiguous_groups
from soscope_scverse.module.likelihoods import Subspots
from soscope_scverse.module.vae import SoScopeVAE
from soscope_scverse.pp.geometry import fine_array_index
from soscope_scverse.pp.graphs import nearest_distance

_CHUNK_VALUES = 5_000_000  # subspot values decoded at once: 20 MB a tensor
_QUANTILES = {"q05": 0.05, "q95": 0.95}


@torch.inference_mode()
def enhance_profiles(
    module: SoScopeVAE,
    tiles: Tiles,
    *,
    expectation: Literal["conditional", "prior"],
    n_samples: int,
) -> dict[str, np.ndarray]:
    """Profiles of all valid subspots of a section.

    Parameters
    ----------
    module
        Trained module.
    tiles
        The section.
    expectation, n_samples
        See :meth:`~soscope_scverse.model.SoScope.get_enhanced`.

    Returns
    -------
    ``mean`` and, with samples, ``std``, ``q05`` and ``q95``; n_targets x n_features float32 each.
    """
    module.eval()
    shape = tiles.n_targets, module.n_features
    size = max(1, _CHUNK_VALUES // (tiles.section.exposure.shape[1] * module.n_features))
    result: dict[str, np.ndarray] = {}
    for own, tile in _batches(module, tiles, size):
        qz = module.inference(tile)["qz"]
        x, exposure = tile["x"][tile["own"]], tile["exposure"]
        subspots = module.generative(tile, qz.mean)["subspots"]
        values = {"mean": module.likelihood.condition(x, subspots) if expectation == "conditional" else subspots.mean}
        if n_samples:
            given = x if expectation == "conditional" else None
            values |= _spread([_draw(module, tile, qz.sample(), given) for _ in range(n_samples)])
        targets = tiles.targets(own)
        for name, value in values.items():
            if name not in result:
                result[name] = np.empty(shape, np.float32)
            result[name][targets] = value[exposure > 0].cpu().numpy()
    return result


@torch.inference_mode()
def latent_states(module: SoScopeVAE, tiles: Tiles) -> np.ndarray:
    """Mean latent states of all spots of a section, n_spots x n_latent."""
    module.eval()
    z = np.empty((tiles.n_spots, module.encoder.mean.out_features), np.float32)
    for own, tile in _batches(module, tiles, max(1, _CHUNK_VALUES // module.n_features)):
        z[own] = module.inference(tile)["z"][tile["own"]].cpu().numpy()
    return z


def _batches(module: SoScopeVAE, tiles: Tiles, size: int) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """Own spots and tensors of tiles of at most `size` spots, on the module's device."""
    device = next(module.parameters()).device
    for group in contiguous_groups(tiles.section.spatial, tiles.section.sections, size):
        own = np.sort(group)
        yield own, {name: value.to(device) for name, value in tiles.tile(own).items()}


def _draw(module: SoScopeVAE, tile: dict[str, torch.Tensor], z: torch.Tensor, x: torch.Tensor | None) -> torch.Tensor:
    subspots: Subspots = module.generative(tile, z)["subspots"]
    if x is None:  # given the observed spot, its depth is known
        depth = torch.exp(module.depth_noise.sqrt() * torch.randn(len(subspots.mean), 1, 1, device=z.device))
        subspots = subspots._replace(mean=subspots.mean * depth)
    return module.likelihood.sample(subspots, x)


def _spread(draws: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    stacked = torch.stack(draws)
    result = {"std": stacked.std(dim=0, correction=0)}
    return result | {name: stacked.quantile(q, dim=0) for name, q in _QUANTILES.items()}


def enhanced_anndata(
    adata: AnnData, profiles: dict[str, np.ndarray], *, features_key: str | None, library_key: str | None
) -> AnnData:
    """AnnData of the subspots of `adata`.

    Parameters
    ----------
    adata
        Spots, in the order of the profiles.
    profiles
        ``mean`` and optional layers of all valid subspots, row by row.
    features_key
        Slot of ``obsm`` with the image features, if any.
    library_key
        Column of ``obs`` that tells the sections.
    """
    valid = np.asarray(adata.obsm[keys.EXPOSURE]) > 0
    spot, subspot = np.nonzero(valid)
    obs = pd.DataFrame(
        {keys.SPOT: adata.obs_names[spot], keys.SUBSPOT: subspot},
        index=[f"{name}_{k}" for name, k in zip(adata.obs_names[spot], subspot, strict=True)],
    )
    if library_key is not None:
        obs[library_key] = adata.obs[library_key].to_numpy()[spot]
        obs[library_key] = obs[library_key].astype("category")
    info = adata.uns.get(keys.SUBSPOTS, {})
    array = check.array_index(adata)
    if array is not None and "array_steps" in info:
        obs[["array_col", "array_row"]] = fine_array_index(array, info)[valid]
    enhanced = AnnData(profiles["mean"], obs=obs, var=adata.var.copy())
    enhanced.obsm[keys.SPATIAL] = np.asarray(adata.obsm[keys.SUBSPOTS])[valid]
    if features_key is not None:
        enhanced.obsm[keys.IMAGE_FEATURES] = np.asarray(adata.obsm[features_key])[valid]
    for name, values in profiles.items():
        if name != "mean":
            enhanced.layers[name] = values
    enhanced.uns[keys.SPATIAL] = _spatial_uns(adata, enhanced, library_key)
    return enhanced


def _spatial_uns(adata: AnnData, enhanced: AnnData, library_key: str | None) -> dict:
    """``uns["spatial"]`` of the spots with the diameter of the subspots, for squidpy and scanpy."""
    spatial = copy.deepcopy(dict(adata.uns.get(keys.SPATIAL, {})))
    sections = check.sections(enhanced, library_key)
    for section in np.unique(sections):
        # without a library_key there is one section, whatever name it has in uns
        library = next(iter(spatial), section) if library_key is None else section
        entry = spatial.setdefault(library, {"images": {}})
        diameter = nearest_distance(enhanced.obsm[keys.SPATIAL][sections == section])
        entry.setdefault("scalefactors", {"tissue_hires_scalef": 1.0})["spot_diameter_fullres"] = diameter
    return spatial

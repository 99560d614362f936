"""Image features of positions that are no subspots."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as validation
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse.im._features import features, needs_image


@accepts_containers(needs_image=lambda arguments: needs_image(arguments.get("encoder")))
def features_at(
    adata: AnnData | MuData,
    positions: Any,
    image: Any = None,
    *,
    library_id: str | None = None,
    library_key: str | None = None,
    encoder: Any = None,
    key: str = keys.FEATURES,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    **kwargs: Any,
) -> np.ndarray:
    """Describe the tissue around any positions as :func:`features` described it around the subspots.

    Encoder, mode and width of the patch are those that :func:`features` noted; the distance of the positions plays no
    part.

    Parameters
    ----------
    adata
        Spots of the section after :func:`features`.
    positions
        n_positions x 2, (x, y) in full-resolution pixels; or a DataFrame with columns ``x`` and ``y``, or an AnnData
        with ``obsm["spatial"]``.
    image
        As for :func:`features`.
    library_id, library_key
        Section of the positions, and the column of ``obs`` that tells it, where there are several.
    encoder
        The encoder, where its name alone does not make it: functions, modules, objects.
    key
        Where :func:`features` wrote.
    table_key, image_key, shapes_key, coordinate_system
        Of a SpatialData, as of :func:`~soscope_scverse.tl.enhance`; positions are in the coordinates of its spots.
    **kwargs
        Further arguments of :func:`features`: ``image_scale``, ``weights``, ``device``, ``batch_size``, ``cache``,
        ``client``.

    Returns
    -------
    numpy.ndarray
        n_positions x n_image_features float32, for :meth:`SoScope.predict <soscope_scverse.model.SoScope.predict>`.

    Raises
    ------
    ValueError
        If ``uns[key]`` does not tell how the features were made, or as for :func:`features`.
    TypeError
        If `image` is no image that :func:`open_image` takes.
    """
    adata = spots_of(validation.spots(adata))
    made = adata.uns.get(key, {})
    if not {"context", "context_um"} & set(made):
        msg = (
            f"Expected `im.features` to have noted encoder and patch in `adata.uns[{key!r}]`, found {sorted(made)}. "
            "Features that were made elsewhere have to be made there for other positions, too."
        )
        raise ValueError(msg)
    xy = validation.xy(positions)
    sections = validation.sections(adata, library_key)
    spots = np.arange(adata.n_obs) if library_id is None else np.flatnonzero(sections == library_id)
    if len(np.unique(sections[spots])) != 1:
        msg = f"Expected `library_id` to be one of {np.unique(sections).tolist()}, found {library_id!r}."
        raise ValueError(msg)

    # the positions as subspots of the section's own spots, whichever: sizes then are measured as they were
    n_each = -(-len(xy) // len(spots))
    subspots = np.full((len(spots) * n_each, 2), np.nan)
    subspots[: len(xy)] = xy
    shell = AnnData(
        obs=adata.obs.iloc[spots],
        obsm={
            keys.SPATIAL: validation.positions(adata)[spots],
            keys.SUBSPOTS: subspots.reshape(len(spots), n_each, 2),
        },
        uns={name: adata.uns[name] for name in (keys.SPATIAL,) if name in adata.uns},
    )
    recorded = {
        "encoder": made["encoder"] if encoder is None else encoder,
        "mode": made["mode"],
        **{name: made[name] for name in ("context", "context_um", "weights") if name in made},
    }
    features(shell, image, library_key=library_key, **recorded | kwargs)
    values = shell.obsm[keys.FEATURES]
    return values.reshape(-1, values.shape[2])[: len(xy)]

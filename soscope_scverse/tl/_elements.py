"""Results as elements of SpatialData: shapes of the subspots and the table that annotates them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._cell_shapes.reading import read_cells
from soscope_scverse._containers.spatialdata import SpatialSpots
from soscope_scverse._files import unfinished
from soscope_scverse._upstream import without_deprecations
from soscope_scverse.im.reading.embedded import embedded_image
from soscope_scverse.im.reading.opening import open_image
from soscope_scverse.model.inference._carried import free_names
from soscope_scverse.pp._outlines import subspot_outline
from soscope_scverse.tl._images import needs_image_features
from soscope_scverse.tl._results import check_result

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_REGION_KEY, _INSTANCE_KEY = "region", "subspot_id"


def to_spatialdata(
    enhanced: AnnData,
    image: Any = None,
    *,
    image_scale: float | None = None,
    cells: Any = None,
    key_added: str = "enhanced",
) -> SpatialData:
    """Make a SpatialData of an enhanced section: profiles, shapes of the subspots and image.

    Parameters
    ----------
    enhanced
        Subspots of one section, as :func:`~soscope_scverse.tl.enhance` returns them, or some of them.
    image
        Histology image, see :func:`~soscope_scverse.im.open_image`; it is stored lazily and unchanged. None uses the
        image in ``uns["spatial"]``, if there is one.
    image_scale
        Coordinates times this are pixels of `image`. Default: the scale recorded with the image, else 1.
    cells
        Masks or outlines of the cells that are the subspots, as passed to :func:`~soscope_scverse.tl.enhance`.
    key_added
        Name of the table; the shapes are ``"{key_added}_subspots"`` and the image ``"{key_added}_image"``.

    Returns
    -------
    SpatialData
        With a single coordinate system "global", in the pixels of ``obsm["spatial"]``. Shapes are squares or hexagons
        that tile the section, the shapes of `cells`, and circles for other cells and where there is no lattice.

    Raises
    ------
    TypeError, ValueError
        If `enhanced` is no AnnData with positions.
    FileNotFoundError
        If `cells` is a path without a file.
    """
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine, Identity

    if not len(read.positions(read.read_anndata(enhanced))):
        msg = "Expected at least one subspot in `enhanced`, found none."
        raise ValueError(msg)
    if image is None and (embedded := embedded_image(enhanced)) is not None:
        image, image_scale = embedded
    images = {}
    if image is not None:
        source = open_image(image, scale=image_scale)
        to_global = Affine(np.linalg.inv(source.matrix), ("x", "y"), ("x", "y"))
        pixels, dims = source.lazy_pixels()
        images[f"{key_added}_image"] = Image2DModel.parse(pixels, dims=dims, transformations={"global": to_global})
    outlines = _outlines(enhanced, None if cells is None else read_cells(cells))
    shapes = _shapes_element(outlines, {"global": Identity()})
    name = _shapes_name(key_added)
    table = _table(enhanced, np.full(enhanced.n_obs, name))
    return SpatialData(images=images, shapes={name: shapes}, tables={key_added: table})


def enhance_elements(
    sdata: SpatialData,
    enhance: Callable[..., tuple[Any, Any]],
    options: Mapping[str, Any],
    *,
    image_key: Any,
    key_added: str,
    **elements: Any,
) -> Any:
    """Enhance the spots of a SpatialData, add the result to it and return the model.

    Parameters
    ----------
    sdata
        Gets the table and the shapes of the subspots.
    enhance
        Takes the spots as AnnData and `options`; returns the subspots and the model.
    options
        Arguments of :func:`~soscope_scverse.tl.enhance` that concern the spots.
    image_key, key_added, **elements
        See :func:`~soscope_scverse.tl.enhance`.
    """
    if options["out"] is not None:
        msg = (
            f"Expected `out` with AnnData only, found {str(options['out'])!r}. The result is added to `sdata`, and "
            "written to its store if it has one."
        )
        raise ValueError(msg)
    spots = SpatialSpots(sdata, **elements)
    names = _shapes_names(key_added, spots)
    _check_names(sdata, key_added, names.values(), overwrite=options["overwrite"])
    table = spots.adata()
    looks = image_key is not None or needs_image_features(table, options["encoder"], options["sources"])
    completed = spots.complete(dict(options), image_key=image_key, looks=looks)
    if sdata.is_backed():
        check_result("sdata", table, spots.library_key, ".zarr")
    enhanced, model = enhance(table, completed)
    recorded = {**elements, "image_key": image_key}
    enhanced.uns[keys.RESULT]["spatialdata"] = {name: value for name, value in recorded.items() if value is not None}
    shapes, table = _elements(spots, enhanced, completed["cells"], names)
    _add(sdata, shapes, table, key_added)
    return model


def _elements(
    spots: SpatialSpots, enhanced: AnnData, cells: Any, names: Mapping[str, str]
) -> tuple[dict[str, GeoDataFrame], AnnData]:
    """Shapes of the subspots of every section, by their names, and the table that annotates them."""
    shapes, regions = {}, np.empty(enhanced.n_obs, dtype=object)
    for section, rows in spots.rows(enhanced).items():
        outlines = _outlines(enhanced[rows], cells)
        shapes[names[section]] = _shapes_element(outlines, spots.sections[section].systems)
        regions[rows] = names[section]
    return shapes, _table(enhanced, regions)


def _shapes_name(key_added: str, section: str | None = None) -> str:
    """Name of the shapes of a section; names of elements of a SpatialData are unique."""
    return f"{key_added}_subspots" if section is None else f"{key_added}_{section}_subspots"


def _shapes_names(key_added: str, spots: SpatialSpots) -> dict[str, str]:
    """Names of the shapes of each section."""
    several = spots.library_key is not None
    return {section: _shapes_name(key_added, section if several else None) for section in spots.sections}


def _on_disk(sdata: SpatialData) -> set[str]:
    return set(sdata.elements_paths_on_disk()) if sdata.is_backed() else set()


def _check_names(sdata: SpatialData, key_added: str, shapes: Collection[str], *, overwrite: bool) -> None:
    """Raise a ValueError unless the elements of the result can have these names."""
    from spatialdata import SpatialData

    try:
        SpatialData(tables={key_added: AnnData()})
    except (ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        msg = f"Expected `key_added` to be the name of an element of a SpatialData, found {key_added!r}: {reason}"
        raise ValueError(msg) from None
    wanted = {f"tables/{key_added}", *(f"shapes/{name}" for name in shapes)}
    names = {path.partition("/")[2] for path in wanted}
    there = {f"{kind}/{name}" for kind, name, _ in sdata.gen_elements()} | _on_disk(sdata)
    taken = sorted(path for path in there if path.partition("/")[2] in names)
    foreign = [path for path in taken if path not in wanted]
    if foreign or (taken and not overwrite):
        advice = "Choose another `key_added`" + ("." if foreign else ", or pass `overwrite=True`.")
        msg = f"Expected no element of the name of the result in `sdata`, found {taken}. {advice}"
        raise ValueError(msg)


def _add(sdata: SpatialData, shapes: Mapping[str, GeoDataFrame], table: AnnData, key_added: str) -> None:
    """Add the elements of the result to a SpatialData, and to its store if it has one: all of them or none.

    Without room on the disk both are left as they were. Where a writer of another package fails, the elements are added
    to the object alone.
    """
    from spatialdata import SpatialData

    result = SpatialData(shapes=dict(shapes), tables={key_added: table})
    if sdata.is_backed():
        try:
            _write_to_store(result, sdata)
        except OSError:
            raise
        except Exception as error:  # of the writers of other packages
            warnings.warn(
                f"The result could not be written to {str(sdata.path)!r} ({error or type(error).__name__}). It is "
                "added in memory: write it with `sdata.write_element`, or `sdata.write` to another path.",
                UserWarning,
                stacklevel=4,
            )
    for kind, name, element in list(result.gen_elements()):
        there = getattr(sdata, kind)
        there.pop(name, None)
        there[name] = element


def _write_to_store(result: SpatialData, sdata: SpatialData) -> None:
    """Write the elements of a result to the store of a SpatialData, whose metadata stay consolidated."""
    is_consolidated = sdata.has_consolidated_metadata()
    _write(result, Path(str(sdata.path)))
    if is_consolidated:
        sdata.write_consolidated_metadata()


def _write(result: SpatialData, store: Path) -> None:
    """Write the elements of a result beside a store, and move them there once they are complete.

    A process that is killed leaves the store unchanged or, while elements are moved, without some of the result.
    """
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    with unfinished(store) as folder:
        new, old = folder / "new", folder / "old"
        zarr.create_group(new, zarr_format=root.metadata.zarr_format, attributes=dict(root.attrs))
        result.path = new
        with without_deprecations():
            result.write_element([name for _, name, _ in result.gen_elements()])
        _drop_consolidated(root, store)  # it would list elements that are moved
        paths = result.elements_paths_in_memory()
        for path in reversed(paths):  # the table first, since it annotates the shapes
            root.require_group(path.partition("/")[0])
            if (store / path).exists():
                (old / path).parent.mkdir(parents=True, exist_ok=True)
                (store / path).rename(old / path)
        for path in paths:
            (new / path).rename(store / path)


def _drop_consolidated(root: zarr.Group, store: Path) -> None:
    """Delete the consolidated metadata: in zarr 3 part of the metadata of the root, in zarr 2 a file."""
    root.update_attributes({})
    (store / ".zmetadata").unlink(missing_ok=True)


def _table(enhanced: AnnData, regions: np.ndarray) -> AnnData:
    from spatialdata.models import TableModel

    table = enhanced.copy()
    table.uns.pop("spatialdata_attrs", None)  # of the SpatialData that the table comes from
    table.obs.columns = free_names(table.obs.columns, (_REGION_KEY, _INSTANCE_KEY))
    table.obs[_REGION_KEY] = pd.Categorical(regions)
    table.obs[_INSTANCE_KEY] = table.obs_names.to_numpy(object)
    names = table.obs[_REGION_KEY].cat.categories.tolist()
    return TableModel.parse(table, region=names, region_key=_REGION_KEY, instance_key=_INSTANCE_KEY)


def _shapes_element(shapes: GeoDataFrame, transformations: Mapping[str, Any]) -> GeoDataFrame:
    from spatialdata.models import ShapesModel

    return ShapesModel.parse(shapes, transformations=dict(transformations))


def _outlines(enhanced: AnnData, cells: Any = None) -> GeoDataFrame:
    """Shapes of the subspots: those of the cells, parts of a lattice, else circles."""
    import shapely
    from geopandas import GeoDataFrame

    names = enhanced.obs_names
    if hasattr(cells, "geom_type"):
        own = cells.set_axis(cells.index.astype(str))
        missing = ~names.isin(own.index)
        if missing.any():
            msg = (
                f"Expected outlines of all subspots in `cells`, found {missing.sum()} of {len(names)} without (first: "
                f"{names[missing][0]!r}). Pass the cells that the spots were partitioned into."
            )
            raise ValueError(msg)
        own = own.loc[names]
        radius = {"radius": own["radius"].to_numpy()} if "radius" in own else None
        return GeoDataFrame(radius, geometry=own.geometry.to_numpy(), index=names)
    xy, (corners, diameter, *_) = read.positions(enhanced), subspot_outline(enhanced)
    if corners is not None:
        return GeoDataFrame(geometry=shapely.polygons(xy[:, None] + corners), index=names)
    return GeoDataFrame({"radius": np.full(len(xy), diameter / 2)}, geometry=shapely.points(xy), index=names)

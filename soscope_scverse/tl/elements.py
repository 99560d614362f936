"""Results as elements of SpatialData: shapes of the subspots, and the table that annotates them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._spatialdata import OPTIONS, SpatialSection, is_spatialdata, with_options
from soscope_scverse.pp.geometry import unit_subspots
from soscope_scverse.pp.graphs import nearest_distance

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_REGION_KEY, _INSTANCE_KEY = "region", "subspot_id"


def to_spatialdata(
    enhanced: AnnData, image: Any = None, *, image_scale: float | None = None, key_added: str = "enhanced"
) -> SpatialData:
    """SpatialData of an enhanced section: the profiles, the shapes of the subspots and the picture.

    Parameters
    ----------
    enhanced
        Subspots of one section, as :func:`~soscope_scverse.tl.enhance` returns them, or some of them.
    image
        Picture, see :func:`~soscope_scverse.im.open_image`; it is taken as it is stored, piece by piece when needed.
        None takes the picture in ``uns["spatial"]``, if there is one.
    image_scale
        Coordinates times this are pixels of `image`. Default: the scale that the picture carries, else 1.
    key_added
        Name of the table; the shapes are ``"{key_added}_subspots"`` and the picture ``"{key_added}_image"``.

    Returns
    -------
    SpatialData
        With the one coordinate system "global", in the pixels of ``obsm["spatial"]``. Shapes are squares or hexagons
        that tile the section, and circles for cells and where there is no lattice.

    Raises
    ------
    TypeError, ValueError
        If `enhanced` is no AnnData with positions.
    """
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine, Identity

    from soscope_scverse import im

    check.positions(check.anndata(enhanced))
    if image is None and (embedded := im.embedded_image(enhanced)) is not None:
        image, image_scale = embedded
    images = {}
    if image is not None:
        source = im.open_image(image, scale=image_scale)
        place = Affine(np.linalg.inv(source.matrix), ("x", "y"), ("x", "y"))
        pixels, dims = source.lazy_pixels()
        images[f"{key_added}_image"] = Image2DModel.parse(pixels, dims=dims, transformations={"global": place})
    shapes = _shapes_element(_outlines(enhanced), {"global": Identity()})
    name = _shapes_name(key_added)
    return SpatialData(images=images, shapes={name: shapes}, tables={key_added: _table(enhanced, name)})


def enhances_spatialdata(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let :func:`~soscope_scverse.tl.enhance` take a SpatialData and put the result into it."""

    @wraps(function)
    def wrapper(adata: Any, **kwargs: Any) -> Any:
        if not is_spatialdata(adata):
            return function(adata, **kwargs)
        options = {name: kwargs.pop(name, default) for name, default in OPTIONS.items()}
        key_added, overwrite = kwargs.pop("key_added", "enhanced"), kwargs.pop("overwrite", False)
        returns_model = kwargs.pop("return_model", False)
        if kwargs.get("out") is not None:
            msg = (
                f"Expected `out` with AnnData only, found {str(kwargs['out'])!r}. The result goes to `sdata`, on disk "
                "if that is."
            )
            raise ValueError(msg)
        if kwargs.get("image") is not None and options["image_key"] is not None:
            msg = f"Expected one of `image` and `image_key`, found both ({options['image_key']!r})."
            raise ValueError(msg)
        _check_names(adata, key_added, overwrite=overwrite)
        image_key = options.pop("image_key")
        section = SpatialSection(adata, **options)
        spots = section.spots()
        if kwargs.get("image") is None and (image_key is not None or _needs_picture(spots, kwargs)):
            kwargs["image"] = section.picture(image_key)
        cells = kwargs.get("cells")
        if isinstance(cells, str):
            kwargs["cells"] = section.shapes(cells)
        enhanced, model = function(spots, **kwargs, return_model=True)
        enhanced.uns[keys.RESULT]["spatialdata"] = {
            name: value for name, value in {**options, "image_key": image_key}.items() if value is not None
        }
        shapes = _shapes_element(_outlines(enhanced, kwargs.get("cells")), section.systems)
        _add(adata, shapes, enhanced, key_added)
        return (adata, model) if returns_model else adata

    return with_options(function, wrapper, key_added="enhanced")


def _needs_picture(spots: AnnData, kwargs: Mapping[str, Any]) -> bool:
    without = kwargs.get("sources") == "positions" or kwargs.get("encoder") in ("noise", "precomputed")
    return not without and keys.FEATURES not in spots.obsm


def _shapes_name(key_added: str) -> str:
    """Of the shapes: no two elements of a SpatialData have the same name."""
    return f"{key_added}_subspots"


def _on_disk(sdata: SpatialData) -> set[str]:
    return set(sdata.elements_paths_on_disk()) if sdata.is_backed() else set()


def _check_names(sdata: SpatialData, key_added: str, *, overwrite: bool) -> None:
    """Raise unless the result can have its names."""
    from spatialdata import SpatialData

    SpatialData(tables={key_added: AnnData()})  # a name that SpatialData takes
    wanted = {f"tables/{key_added}", f"shapes/{_shapes_name(key_added)}"}
    names = {path.partition("/")[2] for path in wanted}
    there = {f"{kind}/{name}" for kind, name, _ in sdata.gen_elements()} | _on_disk(sdata)
    taken = sorted(path for path in there if path.partition("/")[2] in names)
    foreign = [path for path in taken if path not in wanted]
    if foreign or (taken and not overwrite):
        advice = "Choose another `key_added`" + ("." if foreign else ", or pass `overwrite=True`.")
        msg = f"Expected no element of the name of the result in `sdata`, found {taken}. {advice}"
        raise ValueError(msg)


def _add(sdata: SpatialData, shapes: GeoDataFrame, enhanced: AnnData, key_added: str) -> None:
    """Put the result into a SpatialData, and on disk if that is; both elements or none."""
    name = _shapes_name(key_added)
    table = _table(enhanced, name)
    _remove(sdata, key_added)
    try:
        sdata.shapes[name] = shapes
        sdata.tables[key_added] = table
        if sdata.is_backed():
            sdata.write_element([name, key_added])
    except BaseException:
        _remove(sdata, key_added)
        raise


def _remove(sdata: SpatialData, key_added: str) -> None:
    """Remove a result, the table first, since it annotates the shapes."""
    if sdata.is_backed() and sdata.has_consolidated_metadata():
        sdata.write_consolidated_metadata()  # what was written in part, or by a process that ended, is listed
    stored = {path.partition("/")[2] for path in _on_disk(sdata)}
    for name, elements in ((key_added, sdata.tables), (_shapes_name(key_added), sdata.shapes)):
        if name in stored:
            sdata.delete_element_from_disk(name)
        if name in elements:
            del elements[name]


def _table(enhanced: AnnData, shapes_name: str) -> AnnData:
    from spatialdata.models import TableModel

    table = enhanced.copy()
    table.obs[_REGION_KEY] = shapes_name
    table.obs[_REGION_KEY] = table.obs[_REGION_KEY].astype("category")
    table.obs[_INSTANCE_KEY] = table.obs_names.to_numpy(object)
    return TableModel.parse(table, region=shapes_name, region_key=_REGION_KEY, instance_key=_INSTANCE_KEY)


def _shapes_element(shapes: GeoDataFrame, transformations: Mapping[str, Any]) -> GeoDataFrame:
    from spatialdata.models import ShapesModel

    return ShapesModel.parse(shapes, transformations=dict(transformations))


def _outlines(enhanced: AnnData, cells: Any = None) -> GeoDataFrame:
    """Shapes of the subspots: their own if they are cells with shapes, parts of a lattice, else circles."""
    import shapely
    from geopandas import GeoDataFrame

    names = enhanced.obs_names
    if hasattr(cells, "geom_type"):
        own = cells.set_axis(cells.index.astype(str)).loc[names]
        radius = {"radius": own["radius"].to_numpy()} if "radius" in own else None
        return GeoDataFrame(radius, geometry=own.geometry.to_numpy(), index=names)
    xy = check.positions(enhanced)
    info = enhanced.uns.get(keys.RESULT, {}).get("geometry", {})
    if info.get("geometry") in ("square", "hex"):
        corners = xy[:, None] + _corners(info["geometry"], _fine_basis(enhanced, xy, info))
        return GeoDataFrame(geometry=shapely.polygons(corners), index=names)
    diameter = info["subspot_diameter"] if "subspot_diameter" in info else nearest_distance(xy)
    return GeoDataFrame({"radius": np.full(len(xy), diameter / 2)}, geometry=shapely.points(xy), index=names)


def _fine_basis(enhanced: AnnData, xy: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Lattice vectors of the subspots of this section; what is noted of the spots is that of the first section."""
    n_subspots = int(info["n_subspots"])
    index, noted = unit_subspots(info["geometry"], np.asarray(info["basis"]), n_subspots)
    index = index[enhanced.obs[keys.SUBSPOT].to_numpy(int)]
    spot = enhanced.obs[keys.SPOT].astype("category").cat.codes.to_numpy()
    index, xy = (values - _means(values, spot) for values in (index, xy))
    # the smallest change of what is noted, which stays where too few subspots are left to tell
    return noted + np.linalg.lstsq(index, xy - index @ noted, rcond=1e-6)[0]


def _means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean of the group of every row."""
    sums = np.stack([np.bincount(group, column) for column in values.T], axis=1)
    return (sums / np.bincount(group)[:, None])[group]


def _corners(kind: str, basis: np.ndarray) -> np.ndarray:
    """Corners of the cell of a lattice around 0, in turn: halfway to the neighbours, or the middles of triangles."""
    if kind == "square":
        return np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) @ basis
    return np.array([[1, 1], [-1, 2], [-2, 1], [-1, -1], [1, -2], [2, -1]]) / 3 @ basis

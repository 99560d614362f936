"""SpatialData: the spots that a table annotates, and what lies over them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import layers_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from soscope_scverse.im.source import ImageSource

# spatialdata takes seconds to import: it is imported where an object of it has come in.

_XY = ("x", "y")
OPTIONS = {"table_key": "table", "image_key": None, "shapes_key": None, "coordinate_system": None}
"""Arguments that a function takes with a SpatialData, and their defaults."""


class SpatialSection:
    """The spots of a SpatialData: a table and the element that it annotates.

    Positions are in the element's own coordinates, before any transformation.

    Parameters
    ----------
    sdata
        The SpatialData.
    table_key, shapes_key, coordinate_system
        As of :func:`~soscope_scverse.tl.enhance`.

    Raises
    ------
    ValueError
        If a name is not there, or has to be chosen.
    """

    def __init__(
        self, sdata: SpatialData, *, table_key: str, shapes_key: str | None, coordinate_system: str | None
    ) -> None:
        from spatialdata.models import get_table_keys
        from spatialdata.transformations import get_transformation

        table = _named("table_key", table_key, sdata.tables)
        if "spatialdata_attrs" not in table.uns:
            msg = (
                f"Expected the table {table_key!r} to annotate shapes, found that it annotates nothing. Call "
                "`sdata.set_table_annotates_spatialelement`."
            )
            raise ValueError(msg)
        regions, region_key, instance_key = get_table_keys(table)
        region = _only("shapes_key", shapes_key, [regions] if isinstance(regions, str) else list(regions))
        element = _named("shapes_key", region, {**sdata.shapes, **sdata.labels})
        systems = get_transformation(element, get_all=True)
        if coordinate_system is not None:
            _named("coordinate_system", coordinate_system, systems)
        self.sdata, self.table_key, self.shapes_key, self.element = sdata, table_key, region, element
        self._system = coordinate_system
        self.systems = systems
        rows = (table.obs[region_key] == region).to_numpy()
        self._table = table if rows.all() else table[rows].copy()
        self._instances = self._table.obs[instance_key].to_numpy()

    @property
    def is_whole_table(self) -> bool:
        """Whether all rows of the table are spots of this element."""
        return self._table is self.sdata.tables[self.table_key]

    def spots(self) -> AnnData:
        """The table with the centroids as positions and the width of the spots; its profiles are no copy."""
        table, (centres, diameter) = self._table, self._centres()
        missing = ~np.isin(self._instances, centres.index)
        if missing.any():
            msg = (
                f"Expected {self.shapes_key!r} to hold all that the table {self.table_key!r} annotates, found "
                f"{missing.sum()} of {len(missing)} missing (first: {self._instances[missing][0]!r}). Keep those that "
                "both hold: `spatialdata.join_spatialelement_table`."
            )
            raise ValueError(msg)
        slots = {"obsm": dict(table.obsm), "obsp": dict(table.obsp), "uns": dict(table.uns)}
        slots["obsm"][keys.SPATIAL] = centres.loc[self._instances].to_numpy(float)
        slots["uns"].pop("spatialdata_attrs")
        library: dict = next(
            iter(table.uns.get(keys.SPATIAL, {}).values()), {}
        )  # pictures are those of the SpatialData
        scales = {**library.get("scalefactors", {}), **({"spot_diameter_fullres": diameter} if diameter else {})}
        slots["uns"][keys.SPATIAL] = {self.shapes_key: {"images": {}, "scalefactors": scales}}
        return AnnData(table.X, obs=table.obs.copy(), var=table.var.copy(), layers=layers_of(table), **slots)

    def picture(self, image_key: str | None) -> ImageSource | None:
        """The picture over the spots, placed by the transformations; None if there is none to choose."""
        from soscope_scverse.im.source import open_image  # im uses this module

        images = self.sdata.images
        if image_key is not None:
            _named("image_key", image_key, images)
        else:
            over = [name for name, image in images.items() if self._shared(image)]
            if not over:
                return None
            image_key = _only("image_key", None, over)
        return open_image(images[image_key], scale=1.0).placed(self._to(image_key, images[image_key]))

    def shapes(self, name: str) -> GeoDataFrame:
        """Other shapes of the SpatialData, in the coordinates of the spots."""
        shapes = _named("cells", name, self.sdata.shapes)
        matrix = np.linalg.inv(self._to(name, shapes))
        moved = shapes.set_geometry(shapes.geometry.affine_transform([*matrix[:2, :2].ravel(), *matrix[:2, 2]]))
        if "radius" in moved:
            moved["radius"] *= np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        return moved

    def _centres(self) -> tuple[pd.DataFrame, float | None]:
        """Positions by instance, and the diameter of a circle of the same area."""
        from spatialdata import get_centroids

        if not hasattr(self.element, "geometry"):  # labels
            system = next(iter(self.systems))
            centres = get_centroids(self.element, system).compute()
            back = np.linalg.inv(_matrix(self.systems[system]))
            xy = centres[list(_XY)].to_numpy() @ back[:2, :2].T + back[:2, 2]
            return pd.DataFrame(xy, index=centres.index), None
        shapes = self.element.geometry
        centres = pd.DataFrame({"x": shapes.centroid.x, "y": shapes.centroid.y})
        radius = self.element["radius"] if "radius" in self.element else np.sqrt(shapes.area / np.pi)
        return centres, 2 * float(radius.median())

    def _shared(self, element: Any) -> list[str]:
        """Coordinate systems that the spots and an element are both in."""
        from spatialdata.transformations import get_transformation

        others = get_transformation(element, get_all=True)
        return [name for name in self.systems if name in others and self._system in (None, name)]

    def _to(self, name: str, element: Any) -> np.ndarray:
        """Affine matrix, 3 x 3, from the coordinates of the spots to those of an element."""
        from spatialdata.transformations import get_transformation

        shared, others = self._shared(element), get_transformation(element, get_all=True)
        if not shared:
            found = list(self.systems) if self._system is None else self._system
            msg = (
                f"Expected {name!r} in a coordinate system of the spots {self.shapes_key!r} ({found}), found it in "
                f"{list(others)}. Add a transformation with `spatialdata.transformations.set_transformation`."
            )
            raise ValueError(msg)
        found = [np.linalg.inv(_matrix(others[system])) @ _matrix(self.systems[system]) for system in shared]
        if not all(np.allclose(found[0], matrix, rtol=1e-4) for matrix in found):
            msg = (
                f"Expected one place of {name!r} over the spots {self.shapes_key!r}, found another in each of the "
                f"coordinate systems {shared}. Say which with `coordinate_system=`."
            )
            raise ValueError(msg)
        return found[0]


def is_spatialdata(data: object) -> bool:
    """Whether this is a SpatialData, without importing it."""
    return any(kind.__name__ == "SpatialData" for kind in type(data).__mro__)


def with_options(function: Callable[..., Any], wrapper: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """Show the arguments for SpatialData in the signature of a wrapper."""
    signature = inspect.signature(function)
    shown = list(signature.parameters.values())
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**OPTIONS, **more}.items()
    ]
    wrapper.__signature__ = signature.replace(parameters=[*shown, *added])  # type: ignore[attr-defined]
    return wrapper


def accepts_spatialdata(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function that writes slots of the spots work on SpatialData: the slots go to the table."""
    signature = inspect.signature(function)

    @wraps(function)
    def wrapper(data: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_spatialdata(data):
            return function(data, *args, **kwargs)
        options = {name: kwargs.pop(name, default) for name, default in OPTIONS.items()}
        kwargs = signature.bind(None, *args, **kwargs).arguments
        del kwargs[next(iter(signature.parameters))]
        if kwargs.pop("copy", False):
            msg = "Expected `copy=False` with SpatialData, found True: the table is written to. Copy that first."
            raise ValueError(msg)
        image_key = options.pop("image_key")
        section = SpatialSection(data, **options)
        if not section.is_whole_table:
            msg = (
                f"Expected a table that annotates {section.shapes_key!r} alone, found that {section.table_key!r} "
                "annotates other shapes too. Make a table of its own, or call `tl.enhance`, which takes a part."
            )
            raise ValueError(msg)
        spots = section.spots()
        if "image" in signature.parameters and kwargs.get("image") is None:
            kwargs["image"] = section.picture(image_key)
        if isinstance(kwargs.get("cells"), str):
            kwargs["cells"] = section.shapes(kwargs["cells"])
        result = function(spots, **kwargs)
        table = data.tables[section.table_key]
        for column in spots.obs.columns.difference(table.obs.columns):
            table.obs[column] = spots.obs[column]
        table.obsm.update(spots.obsm)
        table.uns.update({key: value for key, value in spots.uns.items() if key != keys.SPATIAL})
        return result

    return with_options(function, wrapper)


def _named(argument: str, name: str, there: Any) -> Any:
    """What has this name."""
    if name not in there:
        msg = f"Expected `{argument}` to be one of {list(there)}, found {name!r}."
        raise ValueError(msg)
    return there[name]


def _only(argument: str, name: str | None, there: Iterable[str]) -> str:
    """The name that was given, or the only one there is."""
    there = list(there)
    if name is None and len(there) == 1:
        return there[0]
    if name is None or name not in there:
        msg = f"Expected `{argument}` to be one of {there}, found {name!r}. Say which."
        raise ValueError(msg)
    return name


def _matrix(transformation: Any) -> np.ndarray:
    return transformation.to_affine_matrix(_XY, _XY)

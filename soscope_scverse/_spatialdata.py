"""SpatialData: the spots that a table annotates, and what lies over them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import layers_of
from soscope_scverse._slots import handed_back

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from soscope_scverse.im.reading.source import ImageSource

# spatialdata takes seconds to import: it is imported where an object of it has come in.

_XY = ("x", "y")


class SpatialSpots:
    """The spots of a SpatialData: rows of a table, and the elements that they annotate, each of which is a section.

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
        If a name is not there.
    """

    def __init__(
        self,
        sdata: SpatialData,
        *,
        table_key: str = "table",
        shapes_key: str | None = None,
        coordinate_system: str | None = None,
    ) -> None:
        from spatialdata.models import get_table_keys

        if not is_spatialdata(sdata):
            msg = f"Expected a SpatialData, found {type(sdata).__name__}."
            raise TypeError(msg)
        table = _named("table_key", table_key, sdata.tables)
        if "spatialdata_attrs" not in table.uns:
            msg = (
                f"Expected the table {table_key!r} to annotate shapes, found that it annotates nothing. Call "
                "`sdata.set_table_annotates_spatialelement`."
            )
            raise ValueError(msg)
        regions, self.region_key, self._instance_key = get_table_keys(table)
        of_row = table.obs[self.region_key]
        found = [name for name in np.atleast_1d(regions).tolist() if (of_row == name).any()]
        chosen = found if shapes_key is None else [_only("shapes_key", shapes_key, found)]
        rows = of_row.isin(chosen).to_numpy()
        self.is_whole_table = bool(rows.all())
        self.table = table if self.is_whole_table else table[rows].copy()
        self.sections = {name: SpatialSection(sdata, table_key, name, coordinate_system) for name in chosen}

    @property
    def library_key(self) -> str | None:
        """Column of the table that tells the sections, None if there is but one."""
        return self.region_key if len(self.sections) > 1 else None

    def rows(self, table: AnnData) -> dict[str, np.ndarray]:
        """Which rows of a table belong to each section: of this one, or of a result of it."""
        if self.library_key is None:
            return {name: np.ones(table.n_obs, dtype=bool) for name in self.sections}
        return {name: (table.obs[self.library_key] == name).to_numpy() for name in self.sections}

    def adata(self) -> AnnData:
        """The table with the centroids as positions and the width of the spots; its profiles are no copy."""
        table, xy, libraries = self.table, np.empty((self.table.n_obs, 2)), {}
        noted = table.uns.get(keys.SPATIAL, {})
        for name, rows in self.rows(table).items():
            section = self.sections[name]
            xy[rows] = section.positions(table.obs[self._instance_key].to_numpy()[rows])
            entry = noted.get(name) or (next(iter(noted.values())) if len(noted) == 1 else {})
            scales = {**entry.get("scalefactors", {}), **section.diameter()}
            libraries[name] = {"images": {}, "scalefactors": scales}  # images are those of the SpatialData
        slots = {"obsm": dict(table.obsm), "obsp": dict(table.obsp), "uns": dict(table.uns)}
        slots["obsm"][keys.SPATIAL] = xy
        slots["uns"].pop("spatialdata_attrs")
        slots["uns"][keys.SPATIAL] = libraries
        return AnnData(table.X, obs=table.obs.copy(), var=table.var.copy(), layers=layers_of(table), **slots)

    def image(self, image_key: Any, **kwargs: Any) -> ImageSource | dict[str, ImageSource] | None:
        """The images over the spots by section, placed by the transformations; None if there are none to choose."""
        names = self._by_section("image_key", image_key)
        images = {name: section.image(names[name], **kwargs) for name, section in self.sections.items()}
        found = {name: image for name, image in images.items() if image is not None}
        return (found or None) if self.library_key else next(iter(found.values()), None)

    def cells(self, shapes: str | Mapping[str, str]) -> GeoDataFrame:
        """Other shapes of the SpatialData, in the coordinates of the spots; with a column of the sections."""
        names = self._by_section("cells", shapes)
        parts = [section.shapes(names[name]) for name, section in self.sections.items()]
        if not self.library_key:
            return parts[0]
        return pd.concat(
            [part.assign(**{self.library_key: name}) for name, part in zip(self.sections, parts, strict=True)]
        )

    def complete(self, kwargs: dict[str, Any], *, image_key: Any, looks: bool) -> dict[str, Any]:
        """Arguments of a function of the spots, with what the SpatialData tells: the image, cells and sections."""
        if kwargs.get("image") is not None and image_key is not None:
            msg = f"Expected one of `image` and `image_key`, found both ({image_key!r})."
            raise ValueError(msg)
        if looks and kwargs.get("image") is None:
            kwargs = {**kwargs, "image": self.image(image_key)}
        if isinstance(kwargs.get("cells"), str | Mapping):
            kwargs = {**kwargs, "cells": self.cells(kwargs["cells"])}
        if self.library_key is None:
            return kwargs
        if kwargs.get("library_key") not in (None, self.library_key):
            msg = (
                f"Expected `library_key` to be {self.library_key!r}, the column of the table that tells its elements "
                f"{list(self.sections)}, found {kwargs['library_key']!r}. Leave it out, or choose an element with "
                "`shapes_key=`."
            )
            raise ValueError(msg)
        return {**kwargs, "library_key": self.library_key}

    def _by_section(self, argument: str, names: Any) -> dict[str, Any]:
        """An argument that is one for all sections or a dict by section."""
        if not isinstance(names, Mapping):
            return dict.fromkeys(self.sections, names)
        if set(names) != set(self.sections):
            msg = f"Expected `{argument}` by the elements of the table {list(self.sections)}, found {list(names)}."
            raise ValueError(msg)
        return dict(names)


class SpatialSection:
    """An element that a table annotates, and what lies over it in the coordinate systems that both are in."""

    def __init__(self, sdata: SpatialData, table_key: str, name: str, coordinate_system: str | None) -> None:
        from spatialdata.transformations import get_transformation

        self.element = _named("shapes_key", name, {**sdata.shapes, **sdata.labels})
        self.systems = get_transformation(self.element, get_all=True)
        if coordinate_system is not None:
            _named("coordinate_system", coordinate_system, self.systems)
        self._sdata, self._table_key, self._name, self._system = sdata, table_key, name, coordinate_system

    def positions(self, instances: np.ndarray) -> np.ndarray:
        """Centroids of instances."""
        centres = self._centres()
        missing = ~np.isin(instances, centres.index)
        if missing.any():
            msg = (
                f"Expected {self._name!r} to hold all that the table {self._table_key!r} annotates, found "
                f"{missing.sum()} of {len(missing)} missing (first: {instances[missing][0]!r}). Keep those that "
                "both hold: `spatialdata.join_spatialelement_table`."
            )
            raise ValueError(msg)
        return centres.loc[instances].to_numpy(float)

    def diameter(self) -> dict[str, float]:
        """Diameter of a circle of the same area as the spots; nothing of labels."""
        if not hasattr(self.element, "geometry"):
            return {}
        if "radius" in self.element:
            radius = self.element["radius"]
        else:
            radius = np.sqrt(self.element.geometry.area / np.pi)
        return {"spot_diameter_fullres": 2 * float(radius.median())}

    def image(self, image_key: str | None, **kwargs: Any) -> ImageSource | None:
        """The image over the spots, placed by the transformations; None if there is none to choose."""
        from soscope_scverse.im.reading.opening import open_image  # im uses this module

        images = self._sdata.images
        if image_key is not None:
            _named("image_key", image_key, images)
        else:
            over = [name for name, image in images.items() if self._shared(image)]
            if not over:
                return None
            image_key = _only("image_key", None, over)
        return open_image(images[image_key], scale=1.0, **kwargs).placed(self._to(image_key, images[image_key]))

    def shapes(self, name: str) -> GeoDataFrame:
        """Other shapes of the SpatialData, in the coordinates of the spots."""
        shapes = _named("cells", name, self._sdata.shapes)
        matrix = np.linalg.inv(self._to(name, shapes))
        moved = shapes.set_geometry(shapes.geometry.affine_transform([*matrix[:2, :2].ravel(), *matrix[:2, 2]]))
        if "radius" in moved:
            moved["radius"] *= np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        return moved

    def _centres(self) -> pd.DataFrame:
        """Positions by instance."""
        if hasattr(self.element, "geometry"):
            centres = self.element.geometry.centroid
            return pd.DataFrame({"x": centres.x, "y": centres.y})
        from spatialdata import get_centroids

        system = next(iter(self.systems))
        centres = get_centroids(self.element, system).compute()
        back = np.linalg.inv(_matrix(self.systems[system]))
        xy = centres[list(_XY)].to_numpy() @ back[:2, :2].T + back[:2, 2]
        return pd.DataFrame(xy, columns=_XY, index=centres.index)

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
                f"Expected {name!r} in a coordinate system of the spots {self._name!r} ({found}), found it in "
                f"{list(others)}. Add a transformation with `spatialdata.transformations.set_transformation`."
            )
            raise ValueError(msg)
        found = [np.linalg.inv(_matrix(others[system])) @ _matrix(self.systems[system]) for system in shared]
        if not all(np.allclose(found[0], matrix, rtol=1e-4) for matrix in found):
            msg = (
                f"Expected one place of {name!r} over the spots {self._name!r}, found another in each of the "
                f"coordinate systems {shared}. Say which with `coordinate_system=`."
            )
            raise ValueError(msg)
        return found[0]


def is_spatialdata(data: object) -> bool:
    """Whether this is a SpatialData, without importing it."""
    return any(kind.__name__ == "SpatialData" for kind in type(data).__mro__)


def take_options(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Take what tells the spots of a SpatialData, and the `image_key`, out of the arguments of a function."""
    options = {name: arguments.pop(name, default) for name, default in _options(function).items()}
    return options, options.pop("image_key", None)


def with_options(function: Callable[..., Any], wrapper: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """Show the arguments for SpatialData in the signature of a wrapper."""
    signature = inspect.signature(function)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**_options(function), **more}.items()
    ]
    shown = sorted([*signature.parameters.values(), *added], key=lambda parameter: parameter.kind)
    wrapper.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return wrapper


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments that a function takes with a SpatialData, and their defaults: images and cells have to be found."""
    parameters = inspect.signature(function).parameters
    found = [name for name in ("image", "cells") if name in parameters and parameters[name].default is not False]
    return {
        "table_key": "table",
        **({"image_key": None} if "image" in found else {}),
        "shapes_key": None,
        **({"coordinate_system": None} if found else {}),
    }


def accepts_spatialdata(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of the spots work on SpatialData; slots that it writes go to the table."""
    parameters = inspect.signature(function).parameters
    first, writes = next(iter(parameters)), "copy" in parameters

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
        data = arguments.pop(first, None)
        if not is_spatialdata(data):
            return function(*args, **kwargs)
        options, image_key = take_options(function, arguments)
        if writes and arguments.pop("copy", False):
            msg = "Expected `copy=False` with SpatialData, found True: the table is written to. Copy that first."
            raise ValueError(msg)
        spots = SpatialSpots(data, **options)
        if writes and not spots.is_whole_table:
            msg = (
                f"Expected to write for all that the table {options['table_key']!r} annotates, found "
                f"`shapes_key={options['shapes_key']!r}`. Leave that out, or make a table of its own."
            )
            raise ValueError(msg)
        if spots.library_key is not None and "library_key" not in parameters:
            _only("shapes_key", None, spots.sections)
        looks = "image" in parameters and _needs_image(arguments.get("encoder"))
        arguments = spots.complete(arguments, image_key=image_key, looks=looks)
        adata = spots.adata()
        with handed_back(adata, spots.table):
            result = function(adata, **arguments)
        if writes:
            spots.table.obsm[keys.SPATIAL] = adata.obsm[keys.SPATIAL]
        return result

    return with_options(function, wrapper)


def opens_spatialdata(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function that opens an image find it in a SpatialData."""

    @wraps(function)
    def wrapper(image: Any, **kwargs: Any) -> Any:
        if not is_spatialdata(image):
            return function(image, **kwargs)
        options, image_key = take_options(function, kwargs)
        if kwargs.pop("scale", None) is not None:
            msg = "Expected no `scale` with SpatialData, whose transformations tell it. Leave it out."
            raise ValueError(msg)
        source = SpatialSpots(image, **options).image(image_key, **kwargs)
        if source is None:
            msg = f"Expected an image in a coordinate system of the spots, found none of {list(image.images)} there."
            raise ValueError(msg)
        return source

    return with_options(function, wrapper)


def _needs_image(encoder: Any) -> bool:
    from soscope_scverse.im._features import needs_image  # im uses this module

    return needs_image(encoder)


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

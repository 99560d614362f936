"""SpatialData: the spots that a table annotates, and the images and shapes over them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import layers_of
from soscope_scverse._cell_shapes.files import SUFFIXES
from soscope_scverse._cell_shapes.reading import (
    by_section,
    full_resolution,
    is_labels,
    labels_outlines,
    moved,
    read_cells,
)

if TYPE_CHECKING:
    from spatialdata import SpatialData

# spatialdata takes seconds to import: it is imported only where one of its objects was passed in

_XY = ("x", "y")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PlacedImage:
    """An image element and where it lies; :func:`~soscope_scverse.im.open_image` opens it."""

    element: Any
    matrix: np.ndarray
    """3 x 3, takes (x, y, 1) in the coordinates of the spots to pixels of the element."""


class SpatialSpots:
    """The spots of a SpatialData: rows of a table and the elements that they annotate, one section each.

    Positions are in the coordinates of the element itself, before any transformation.

    Parameters
    ----------
    sdata
        The SpatialData.
    table_key, shapes_key, coordinate_system
        See :func:`~soscope_scverse.tl.enhance`.

    Raises
    ------
    TypeError, ValueError
        If `sdata` is no SpatialData, or has no element of one of these names.
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
        table_key = table_name(sdata, table_key)
        table = sdata.tables[table_key]
        if "spatialdata_attrs" not in table.uns:
            msg = (
                f"Expected the table {table_key!r} to annotate spots, found that it annotates nothing. Call "
                "`sdata.set_table_annotates_spatialelement`."
            )
            raise ValueError(msg)
        regions, self.region_key, self._instance_key = get_table_keys(table)
        of_row = table.obs[self.region_key]
        found = [name for name in np.atleast_1d(regions).tolist() if (of_row == name).any()]
        chosen = found if shapes_key is None else [only_of("shapes_key", shapes_key, found)]
        self._sdata = sdata
        rows = of_row.isin(chosen).to_numpy()
        self.is_whole_table = bool(rows.all())
        self.table = table if self.is_whole_table else table[rows].copy()
        self.sections = {name: SpatialSection(sdata, table_key, name, coordinate_system) for name in chosen}

    @property
    def library_key(self) -> str | None:
        """Column of the table with the sections, None if there is only one."""
        return self.region_key if len(self.sections) > 1 else None

    def rows(self, table: AnnData) -> dict[str, np.ndarray]:
        """Rows of each section, as masks of this table or of a result made from it."""
        if self.library_key is None:
            return {name: np.ones(table.n_obs, dtype=bool) for name in self.sections}
        return {name: (table.obs[self.library_key] == name).to_numpy() for name in self.sections}

    def adata(self) -> AnnData:
        """The table with centroids as positions and the diameter of the spots; profiles are not copied."""
        table, xy, libraries = self.table, np.empty((self.table.n_obs, 2)), {}
        recorded = read.libraries(table)
        for name, rows in self.rows(table).items():
            section = self.sections[name]
            xy[rows] = section.positions(table.obs[self._instance_key].to_numpy()[rows])
            entry = recorded.get(name) or (next(iter(recorded.values())) if len(recorded) == 1 else {})
            scales = {**entry.get("scalefactors", {}), **section.diameter()}
            libraries[name] = {"images": {}, "scalefactors": scales}  # the images are those of the SpatialData
        slots = {"obsm": dict(table.obsm), "obsp": dict(table.obsp), "uns": dict(table.uns)}
        slots["obsm"][keys.SPATIAL] = xy
        slots["uns"].pop("spatialdata_attrs")
        slots["uns"][keys.SPATIAL] = libraries
        return AnnData(table.X, obs=table.obs.copy(), var=table.var.copy(), layers=layers_of(table), **slots)

    def image(self, image_key: Any) -> PlacedImage | dict[str, PlacedImage] | None:
        """The image over the spots, of several sections a dict by section; None if there is none."""
        names = self._by_section("image_key", image_key)
        images = {name: section.image(names[name]) for name, section in self.sections.items()}
        found = {name: image for name, image in images.items() if image is not None}
        return (found or None) if self.library_key else next(iter(found.values()), None)

    def cells(self, cells: Any) -> Any:
        """Cells in the coordinates of the spots; elements of the SpatialData with the column of the sections."""
        if isinstance(cells, Mapping) and not is_labels(cells):
            given = self._by_section("cells", cells)
        elif _cell_element(self._sdata, cells) is not None:
            given = dict.fromkeys(self.sections, cells)
        else:
            return read_cells(cells, self.library_key, self.sections)
        parts = {name: section.cells(given[name]) for name, section in self.sections.items()}
        return by_section(parts, self.library_key, parts) if self.library_key else next(iter(parts.values()))

    def complete(self, kwargs: dict[str, Any], *, image_key: Any, looks: bool) -> dict[str, Any]:
        """Arguments of a function of the spots, completed by image, cells and sections of the SpatialData."""
        if kwargs.get("image") is not None and image_key is not None:
            msg = f"Expected one of `image` and `image_key`, found both ({image_key!r})."
            raise ValueError(msg)
        if looks and kwargs.get("image") is None:
            kwargs = {**kwargs, "image": self.image(image_key)}
        if kwargs.get("cells") is not None:
            kwargs = {**kwargs, "cells": self.cells(kwargs["cells"])}
        if self.library_key is None:
            return kwargs
        if kwargs.get("library_key") not in (None, self.library_key):
            msg = (
                f"Expected `library_key` to be {self.library_key!r}, the column of the table with its elements "
                f"{list(self.sections)}, found {kwargs['library_key']!r}. Omit it, or choose an element with "
                "`shapes_key=`."
            )
            raise ValueError(msg)
        return {**kwargs, "library_key": self.library_key}

    def _by_section(self, argument: str, names: Any) -> dict[str, Any]:
        """An argument that is given once for all sections, or as a dict by section."""
        if not isinstance(names, Mapping):
            return dict.fromkeys(self.sections, names)
        if set(names) != set(self.sections):
            msg = f"Expected `{argument}` by the elements of the table {list(self.sections)}, found {list(names)}."
            raise ValueError(msg)
        return dict(names)


class SpatialSection:
    """An element that a table annotates, and the elements over it in their common coordinate systems."""

    def __init__(self, sdata: SpatialData, table_key: str, name: str, coordinate_system: str | None) -> None:
        from spatialdata.transformations import get_transformation

        self.element = _named("shapes_key", name, {**sdata.shapes, **sdata.labels, **sdata.points})
        self.systems = get_transformation(self.element, get_all=True)
        if coordinate_system is not None:
            _named("coordinate_system", coordinate_system, self.systems)
        self._sdata, self._table_key, self._name, self._system = sdata, table_key, name, coordinate_system

    def positions(self, instances: np.ndarray) -> np.ndarray:
        """Centroids of instances."""
        centres = self._centres()
        if not centres.index.is_unique:
            repeated = centres.index[centres.index.duplicated()]
            msg = (
                f"Expected one instance of each name in {self._name!r}, found {len(repeated)} repeated (first: "
                f"{repeated[0]!r}). Give them an index of their own, which the table {self._table_key!r} names."
            )
            raise ValueError(msg)
        rows = centres.index.get_indexer(pd.Index(instances))
        if (rows < 0).all():  # text in one, numbers in the other
            rows = _names(centres.index).get_indexer(_names(pd.Index(instances)))
        missing = rows < 0
        if missing.any():
            first, there = instances[missing].tolist()[0], centres.index[:3].tolist()
            msg = (
                f"Expected {self._name!r} to hold all that the table {self._table_key!r} annotates, found "
                f"{missing.sum()} of {len(missing)} missing (first: {first!r}, where {self._name!r} has {there}). "
                "Keep those that both hold: `spatialdata.join_spatialelement_table`."
            )
            raise ValueError(msg)
        return centres.to_numpy(float)[rows]

    def diameter(self) -> dict[str, float]:
        """Diameter of a circle of the same area as the spots; nothing of labels and points."""
        if not hasattr(self.element, "geometry"):
            return {}
        if "radius" in self.element:
            radius = self.element["radius"]
        else:
            radius = np.sqrt(self.element.geometry.area / np.pi)
        return {"spot_diameter_fullres": 2 * float(radius.median())}

    def image(self, image_key: str | None) -> PlacedImage | None:
        """The image over the spots; None if there is none."""
        images = self._sdata.images
        if image_key is not None:
            _named("image_key", image_key, images)
        else:
            over = [name for name, image in images.items() if self._shared(image)]
            if not over:
                if images:
                    logger.warning(
                        "None of the images %s is in a coordinate system of the spots %r: none is used. Align one with "
                        "`spatialdata.transformations.set_transformation`, or pass `image=`.",
                        list(images),
                        self._name,
                    )
                return None
            image_key = only_of("image_key", None, over)
        return PlacedImage(images[image_key], self._to(image_key, images[image_key]))

    def cells(self, cells: Any) -> Any:
        """Cells in the coordinates of the spots: shapes or labels of the SpatialData by their name, or any others."""
        element = _cell_element(self._sdata, cells)
        if element is None:
            return read_cells(cells)
        outlines = labels_outlines(element, placed=False) if is_labels(element) else read_cells(element)
        matrix = self._to(cells if isinstance(cells, str) else "cells", element)
        return moved(outlines, np.linalg.inv(matrix))

    def _centres(self) -> pd.DataFrame:
        """Positions by instance."""
        if hasattr(self.element, "geometry"):
            centres = self.element.geometry.centroid
            return pd.DataFrame({"x": centres.x, "y": centres.y})
        if self._name in self._sdata.points:
            return self.element[list(_XY)].compute()
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
                f"Expected {name!r} to lie in one way over the spots {self._name!r}, found different ways in the "
                f"coordinate systems {shared}. Choose one with `coordinate_system=`."
            )
            raise ValueError(msg)
        return found[0]


def is_spatialdata(data: object) -> bool:
    """Whether `data` is a SpatialData, without importing spatialdata."""
    return any(kind.__name__ == "SpatialData" for kind in type(data).__mro__)


def table_name(sdata: SpatialData, table_key: str = "table") -> str:
    """Return `table_key` if there is such a table; by default the name of the only one that is no result, or at all."""
    if table_key == "table" and table_key not in sdata.tables:
        of_spots = [name for name, table in sdata.tables.items() if keys.RESULT not in table.uns]
        for names in (of_spots, list(sdata.tables)):
            if len(names) == 1:
                return names[0]
    _named("table_key", table_key, sdata.tables)
    return table_key


def _names(instances: pd.Index) -> pd.Index:
    """Names of instances as text, of integers without a decimal point."""
    if instances.dtype.kind == "f":
        instances = instances.astype("int64") if (instances == np.round(instances)).all() else instances
    return instances.astype(str)


def _named(argument: str, name: str, there: Any) -> Any:
    """Return the entry of this name."""
    if name not in there:
        msg = f"Expected `{argument}` to be one of {list(there)}, found {name!r}."
        raise ValueError(msg)
    return there[name]


def _cell_element(sdata: SpatialData, cells: Any) -> Any:
    """The shapes or labels of this name, or labels that have transformations; None for cells of other kinds."""
    if is_labels(cells):
        return cells if "transform" in full_resolution(cells).attrs else None
    there = {**sdata.shapes, **sdata.labels}
    is_name = isinstance(cells, str) and (cells in there or Path(cells).suffix.lower() not in SUFFIXES)
    return _named("cells", cells, there) if is_name else None


def only_of(argument: str, name: str | None, there: Iterable[str]) -> str:
    """Return the name that was given, or else the only one there is."""
    there = list(there)
    if name is None and len(there) == 1:
        return there[0]
    if name is None or name not in there:
        msg = f"Expected `{argument}` to be one of {there}, found {name!r}. Choose one."
        raise ValueError(msg)
    return name


def _matrix(transformation: Any) -> np.ndarray:
    return transformation.to_affine_matrix(_XY, _XY)

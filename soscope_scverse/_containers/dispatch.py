"""The one decorator that lets a function of the spots of an AnnData take MuData and SpatialData."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse._containers.lazy import is_lazy, opened
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._containers.slots import written_back
from soscope_scverse._containers.spatialdata import SpatialSpots, is_spatialdata, only_of

Function = TypeVar("Function", bound=Callable[..., Any])

ELEMENT_OPTIONS: Mapping[str, Any] = {
    "table_key": "table",
    "image_key": None,
    "shapes_key": None,
    "coordinate_system": None,
}
"""Arguments that choose elements of a SpatialData, with their defaults."""


def check_no_element_options(data: object, arguments: Mapping[str, Any]) -> None:
    """Raise a TypeError if elements of a SpatialData are chosen, but the data is no SpatialData."""
    given = [name for name, default in ELEMENT_OPTIONS.items() if arguments.get(name, default) != default]
    if given:
        msg = f"Expected {given} with a SpatialData only, found {type(data).__name__}. Omit these arguments."
        raise TypeError(msg)


def accepts_containers(
    *, mudata: bool = False, needs_image: Callable[[Mapping[str, Any]], bool] = lambda arguments: True
) -> Callable[[Function], Function]:
    """Let a function of an AnnData take other containers as its first argument.

    The call is bound to the signature of the function first, so a call that is wrong for an AnnData is a TypeError for
    every container. Of a SpatialData the function gets the table with the centroids as positions, and what it writes
    goes to the table. The function has those of the arguments `table_key`, `image_key`, `shapes_key` and
    `coordinate_system` that it needs, and does not look at them.

    Parameters
    ----------
    mudata
        Whether a function that knows AnnData alone is given the spots of a MuData; what it writes goes to the top.
    needs_image
        Whether a call with these arguments, by name, needs an image; asked if the function has an argument `image`.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        first = next(iter(signature.parameters))

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                call = signature.bind(*args, **kwargs)
            except TypeError as error:
                msg = f"{function.__name__}() cannot be called so: {error}. See `help({function.__name__})`."
                raise TypeError(msg) from None
            data = call.arguments[first]
            if is_spatialdata(data):
                return _call_on_spatialdata(function, _flat(call), first, needs_image)
            check_no_element_options(data, call.arguments)
            if is_lazy(data):
                return _call_on_lazy(function, call, first)
            if mudata and isinstance(data, MuData):
                return _call_on_mudata(function, _flat(call), first)
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def _flat(call: inspect.BoundArguments) -> dict[str, Any]:
    """Arguments of a call by name, further keywords among them."""
    arguments = dict(call.arguments)
    for parameter in call.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(parameter.name, {})
    return arguments


def _call_on_lazy(function: Callable[..., Any], call: inspect.BoundArguments, first: str) -> Any:
    data = call.arguments[first]
    call.arguments[first] = spots = opened(data)
    if call.arguments.get("copy", False):
        return function(*call.args, **call.kwargs)
    with written_back(spots, data):
        return function(*call.args, **call.kwargs)


def _call_on_mudata(function: Callable[..., Any], arguments: dict[str, Any], first: str) -> MuData | None:
    data, copy = arguments.pop(first), arguments.pop("copy", False)
    data = data.copy() if copy else data
    spots = spots_of(data)
    with written_back(spots, data):
        function(spots, **arguments)
    return data if copy else None


def _call_on_spatialdata(
    function: Callable[..., Any],
    arguments: dict[str, Any],
    first: str,
    needs_image: Callable[[Mapping[str, Any]], bool],
) -> Any:
    parameters = inspect.signature(function).parameters
    data = arguments.pop(first)
    options = {name: arguments.pop(name, value) for name, value in ELEMENT_OPTIONS.items() if name in parameters}
    image_key = options.pop("image_key", None)
    writes = "copy" in parameters
    if writes and arguments.pop("copy", False):
        msg = "Expected `copy=False` with SpatialData, found True: the table is written to. Copy that first."
        raise ValueError(msg)
    spots = SpatialSpots(data, **options)
    if writes and not spots.is_whole_table:
        msg = (
            f"Expected to write for all that the table {options['table_key']!r} annotates, found "
            f"`shapes_key={options['shapes_key']!r}`. Omit it, or make a table of its own."
        )
        raise ValueError(msg)
    if spots.library_key is not None and "library_key" not in parameters:
        only_of("shapes_key", None, spots.sections)
    looks = "image" in parameters and needs_image(arguments)
    arguments = spots.complete(arguments, image_key=image_key, looks=looks)
    adata = spots.adata()
    with written_back(adata, spots.table):
        result = function(adata, **arguments)
    if writes:
        spots.table.obsm[keys.SPATIAL] = adata.obsm[keys.SPATIAL]
    return result

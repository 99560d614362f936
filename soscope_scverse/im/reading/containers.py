"""squidpy's ImageContainer: its layers, and the sections that it may hold."""

from __future__ import annotations

from typing import Any, NamedTuple

from soscope_scverse._validators import check_text


class ContainerImage(NamedTuple):
    """The image of one section in an ImageContainer."""

    container: Any
    layer: str
    """Name of the layer."""
    section: int
    """Index along its axis z."""

    def pixels(self) -> Any:
        """Return the image as xarray, without the padding of a crop, which is no tissue: it is mirrored when read."""
        image = self.container[self.layer]
        if "z" in image.dims:
            image = image.isel(z=self.section)
        padding = self.container.data.attrs.get("padding")
        if not padding:
            return image
        return image.isel(
            y=slice(round(padding.y_pre), image.sizes["y"] - round(padding.y_post)),
            x=slice(round(padding.x_pre), image.sizes["x"] - round(padding.x_post)),
        )

    @property
    def scale(self) -> float:
        """Full-resolution coordinates times this, plus the offset, are pixels."""
        return float(self.container.data.attrs.get("scale", 1.0))

    @property
    def offset(self) -> tuple[float, float]:
        """Pixel (x, y) at the origin of the coordinates; negative in a crop."""
        crop = self.container.data.attrs.get("coords")
        return (-float(crop.x0), -float(crop.y0)) if crop else (0.0, 0.0)


def is_container(image: object) -> bool:
    """Whether an image is an ImageContainer, without importing squidpy."""
    return any(kind.__name__ == "ImageContainer" for kind in type(image).__mro__)


def container_images(container: Any, layer: str | None = None) -> dict[str, ContainerImage]:
    """Return the images of a layer by section.

    Parameters
    ----------
    container
        The ImageContainer.
    layer
        Its layer; None is the first one.

    Raises
    ------
    TypeError, ValueError
        If there is no such layer.
    """
    layers = list(container)
    if layer is not None:
        check_text("layer", layer)
    if not layers or layer not in (None, *layers):
        msg = f"Expected `layer` to be one of the layers {layers} of the ImageContainer, found {layer!r}."
        raise ValueError(msg)
    name = layers[0] if layer is None else layer
    image = container[name]
    sections = image.coords["z"].values.tolist() if "z" in image.coords else range(image.sizes.get("z", 1))
    return {str(section): ContainerImage(container, name, i) for i, section in enumerate(sections)}


def only_image(container: Any) -> ContainerImage:
    """Return the image of the first layer of an ImageContainer with one section."""
    images = container_images(container)
    if len(images) > 1:
        msg = (
            f"Expected an ImageContainer with one section, found {list(images)}. Pass `library_key=`, the column of "
            "`obs` with these sections, or one of the images that `im.open_image(container)` returns."
        )
        raise ValueError(msg)
    return next(iter(images.values()))

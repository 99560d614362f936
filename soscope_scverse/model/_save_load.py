"""Save and load models: files are complete or absent, of a known format, and read without running code."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

import anndata as ad
import mudata as md
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.model.base import BaseModelClass

from soscope_scverse import _keys as keys
from soscope_scverse._files import completed, new_folder
from soscope_scverse._storable import check_storable, name_sections, nested_sections
from soscope_scverse._upstream import SCVI_SLOTS, without_deprecations
from soscope_scverse._validators import check_folder, check_path
from soscope_scverse.model._plain_values import curves, plain, tables
from soscope_scverse.model.training.runner import trainer_of

_FORMAT = 2
"""Format of the written model files; those of lower formats can be read, too."""

_MODEL, _ADATA, _MUDATA = "model.pt", "adata.h5ad", "mdata.h5mu"  # as scvi-tools calls them


class SavedModel(BaseModelClass):
    """A model of scvi-tools whose files hold tensors and plain values instead of pickled objects."""

    module: Any
    history_: dict[str, pd.DataFrame] | None

    def save(
        self,
        dir_path: str | PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model: weights, arguments and training curves, which :meth:`load` reads without running code.

        Parameters
        ----------
        dir_path
            Directory to write ``model.pt`` to.
        prefix
            Beginning of the names of the files.
        overwrite
            Write to a directory that exists.
        save_anndata
            Save the spots, too, so that the model can be loaded without them.
        **anndata_write_kwargs
            Of :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        ValueError
            If the directory exists and `overwrite` is False, or a file cannot hold something in the spots.
        TypeError
            If `dir_path` is no path.
        """
        check_folder("dir_path", dir_path, new=not overwrite)
        if save_anndata:
            check_storable("save_anndata", self.adata, ".h5ad")
        folder = Path(dir_path)
        content = {
            "registry": self.registry,
            "arguments": self.init_params_["non_kwargs"],
            "module": self.module.state_dict(),
            "is_trained": self.is_trained_,
            "history": curves(self.history_ or {}),
        }
        with new_folder(folder):
            if save_anndata:
                _write_spots(folder, prefix or "", self.adata, **anndata_write_kwargs)
            _write_model(folder, prefix or "", content)

    @classmethod
    def load(
        cls,
        dir_path: str | PathLike,
        adata: AnnData | MuData | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Load a saved model. Nothing in a file is executed, so files of others can be loaded safely.

        Parameters
        ----------
        dir_path
            Directory that :meth:`save` wrote.
        adata
            Spots for the model, with the features that it was trained on, in their order; None takes the spots that
            were saved with it.
        accelerator, device
            As in Lightning, a single device.
        prefix
            Beginning of the names of the files.

        Returns
        -------
        SoScope
            The model with its weights and history.

        Raises
        ------
        FileNotFoundError
            If the model, or the spots without `adata`, are not there.
        TypeError, ValueError
            If the file is damaged, of a newer format or no model file, or the spots have other features, modalities or
            image features, or do not fit the likelihood.
        """
        check_path("dir_path", dir_path)
        devices = device if device == "auto" else [device]
        target = trainer_of({"accelerator": accelerator, "devices": devices}).strategy.root_device
        saved = _read_model(Path(dir_path), prefix or "", target)
        spots = _read_spots(Path(dir_path), prefix or "") if adata is None else adata
        registry = saved["registry"]
        setup = getattr(cls, registry["setup_method_name"])
        setup(spots, source_registry=registry, **registry["setup_args"])
        model = cls(spots, **saved["arguments"])
        if keys.FEATURES in registry["field_registries"] and keys.FEATURES not in model.adata_manager.data_registry:
            msg = (
                f"Expected image features in `adata.obsm[{registry['setup_args']['features_key']!r}]`, as the model "
                "was trained with an image, found none. Call `im.features(adata, image)` with the same encoder."
            )
            raise ValueError(msg)
        model.module.load_state_dict(_complete(saved["module"], model.module))
        model.module.eval()
        model.to_device(target)
        model.is_trained_ = saved["is_trained"]
        model.history_ = tables(saved["history"])
        return model

    @staticmethod
    def load_registry(dir_path: str | PathLike, prefix: str | None = None) -> dict:
        """Return what a saved model recorded of its spots and their setup.

        Parameters
        ----------
        dir_path, prefix
            See :meth:`load`.

        Returns
        -------
        dict
            The registry of scvi-tools.

        Raises
        ------
        FileNotFoundError
            If there is no model.
        ValueError
            If the file is damaged, of a newer format or no model file.
        """
        return _read_model(Path(dir_path), prefix or "", "cpu")["registry"]


def _write_model(folder: Path, prefix: str, content: Mapping[str, Any]) -> None:
    """Write a model file: tensors and plain values by name."""
    with completed(folder / f"{prefix}{_MODEL}") as part:
        torch.save(plain({"format": _FORMAT, "version": version("soscope-scverse"), **content}), part)


def _write_spots(folder: Path, prefix: str, spots: AnnData | MuData, **kwargs: Any) -> None:
    """Write the spots of a model beside it."""
    name = _MUDATA if isinstance(spots, MuData) else _ADATA
    with completed(folder / f"{prefix}{name}") as part, nested_sections(spots), without_deprecations():
        spots.write(part, **kwargs)


def _read_model(folder: Path, prefix: str, device: str | torch.device) -> dict[str, Any]:
    """Read a model file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is of a newer format, or no model file.
    """
    path = folder / f"{prefix}{_MODEL}"
    if not path.is_file():
        msg = f"Expected a saved model, found no {str(path)!r}. Name the directory that `SoScope.save` wrote."
        raise FileNotFoundError(msg)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        form = int(content["format"])
    except Exception as error:  # the kind of error depends on the damage
        msg = (
            f"Expected a model of soscope_scverse in {str(path)!r}, but it cannot be read as one: "
            f"{shorten(str(error), 200)}. It may be damaged, or from elsewhere; files that would run code are not read."
        )
        raise ValueError(msg) from error
    if form > _FORMAT:
        msg = (
            f"Expected a model file of format {_FORMAT} or lower in {str(path)!r}, found format {form}, written by "
            f"soscope_scverse {content.get('version')}. Update soscope_scverse (this is {version('soscope-scverse')})."
        )
        raise ValueError(msg)
    return content if form == _FORMAT else _of_format_1(content)


def _of_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return a model file of format 1, which had no kriged field and used the image or not, in the present form."""
    arguments = {name: value for name, value in content["arguments"].items() if name != "test_image"}
    module = {name: value for name, value in content["module"].items() if name != "uses_image"}
    strength = content["module"]["uses_image"].float()
    return {
        **content,
        "arguments": arguments | {"kriging": False, "image_strength": float(strength)},
        "module": module | {"image_strength": strength},
    }


def _complete(state: Mapping[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a module, with the kriged field that files of format 1 lack, unset."""
    return {name: value for name, value in module.state_dict().items() if name.startswith("kriged.")} | dict(state)


def _read_spots(folder: Path, prefix: str) -> AnnData | MuData:
    """Read the spots that were saved with a model."""
    for name, read in ((_ADATA, ad.read_h5ad), (_MUDATA, md.read)):
        if (folder / f"{prefix}{name}").is_file():
            spots = read(folder / f"{prefix}{name}")
            for key in SCVI_SLOTS:  # else their registry would replace that of the spots that were saved
                spots.uns.pop(key, None)
            name_sections(spots)
            return spots
    msg = (
        f"Expected the spots of the model in {str(folder)!r}, found neither {_ADATA!r} nor {_MUDATA!r}. Pass them with "
        "`adata=`, or save the model with `save_anndata=True`."
    )
    raise FileNotFoundError(msg)

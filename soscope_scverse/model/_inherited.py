"""What a model has from scvi-tools: what does not apply to subspots is refused, with what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import rich.pretty  # noqa: F401 - scvi-tools 1.4.2 prints a setup with it, and does not import it
from scvi.model.base import BaseModelClass

_SAVED = "`load_registry(path)` returns what a saved model recorded"
_REFUSED = {
    "convert_legacy_save": "`load(path)` reads the files of all earlier versions",
    "differential_abundance": "`tl.domains` and `squidpy.gr.nhood_enrichment` describe the composition of a section",
    "get_normalized_expression": "`get_enhanced(expectation='denoised')` returns expected profiles of the subspots",
    "update_setup_method_args": "`setup_anndata` registers other inputs",
    "view_registry": "`view_anndata_setup()` shows how the spots were registered",
    "view_setup_args": _SAVED,
}
"""Methods of :class:`scvi.model.base.BaseModelClass`."""
_ELSEWHERE = {
    "differential_expression": "use `scanpy.tl.rank_genes_groups` on the subspots of `get_enhanced`",
    "get_elbo": "`history` has the loss and its terms",
    "get_likelihood_parameters": "`get_enhanced` returns the means, and with `n_samples` their spread",
    "get_marginal_ll": "`history` has the likelihood, with train_size=0.9 also that of held-out molecules",
    "get_reconstruction_error": "`history` has `reconstruction_loss_train`, and `tl.validate` scores what is recovered",
    "load_query_data": "pass the spots of another section to `get_enhanced(adata)`",
    "posterior_predictive_sample": "`sample_enhanced(n_samples)` returns posterior samples of the subspots",
}
"""Methods of other models of scvi-tools."""


def _refuse(name: str, advice: str) -> Callable[..., NoReturn]:
    def method(*_: Any, **__: Any) -> NoReturn:
        msg = f"`{name}` of scvi-tools does not apply to SoScope: {advice}."
        raise NotImplementedError(msg)

    method.__name__, method.__doc__ = name, f"Not of this model: {advice}."
    return method


class InheritedModel(BaseModelClass):
    """A model of scvi-tools without what does not apply to subspots.

    See scvi-tools' ``BaseModelClass`` for its parameters.
    """

    if not TYPE_CHECKING:  # it would have all names for mypy

        def __getattr__(self, name: str) -> NoReturn:
            advice = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            msg = f"{type(self).__name__!r} object has no attribute {name!r}{advice}"
            raise AttributeError(msg, name=name, obj=self)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _REFUSED]


for _name, _advice in _REFUSED.items():
    setattr(InheritedModel, _name, staticmethod(_refuse(_name, _advice)))

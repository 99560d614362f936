"""What a model has from scvi-tools: it works, or says what to use instead."""

import pytest
from scvi.model import SCVI

from helpers import train
from soscope_scverse import SoScope
from soscope_scverse.model._inherited import _ELSEWHERE, _REFUSED


@pytest.fixture(scope="module")
def model(_prepared):
    return train(_prepared.copy(), 1)


@pytest.mark.parametrize("name", _REFUSED)
def test_what_does_not_apply_is_refused_and_not_offered(model, name):
    with pytest.raises(NotImplementedError, match=f"`{name}` of scvi-tools does not apply to SoScope: `"):
        getattr(model, name)()
    with pytest.raises(NotImplementedError, match="does not apply"):
        getattr(SoScope, name)("path")
    assert name not in dir(model)


@pytest.mark.parametrize("name", _ELSEWHERE)
def test_what_other_models_have_is_named(model, name):
    assert hasattr(SCVI, name)
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=rf"'SoScope' object has no attribute '{name}': .*`\w"):
        getattr(model, name)


def test_other_names_are_unknown_as_usual(model):
    with pytest.raises(AttributeError, match=r"'SoScope' object has no attribute 'typo'$"):
        _ = model.typo


def test_the_setup_is_shown(model, capsys):
    model.view_anndata_setup()
    model.view_setup_method_args()
    shown = capsys.readouterr().out
    assert "'features_key': 'subspot_features'" in shown
    assert "subspot_exposure" in shown


def test_everything_else_that_is_offered_works(model):
    names = [name for name in dir(model) if not name.startswith("_")]
    values = {name: getattr(model, name) for name in names}  # properties too
    assert {"get_enhanced", "predict", "sample_enhanced", "enhance_genes", "train", "save", "load"} <= set(values)
    assert list(values["get_var_names"]()) == list(model.adata.var_names)
    assert values["get_setup_arg"]("graph_key") == "spot_graph"
    assert values["get_from_registry"](model.adata, "X").shape == model.adata.shape
    assert values["transfer_fields"](model.adata.copy()).adata_uuid

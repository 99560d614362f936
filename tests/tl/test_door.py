"""What happens at the door of `tl.enhance`: input is checked once, the image is opened once, nothing of ours stays."""

import pickle
import sys
from functools import wraps
from inspect import getmembers, isfunction

import mudata as md
import numpy as np
import pytest
import tifffile
from PIL import Image
from soscope_scverse._containers.mudata import columns_apart

from helpers import QUICK
from soscope_scverse import SoScope, pp, tl

MOST_CHECKS = 24
READERS = ("soscope_scverse._read", "soscope_scverse._validators")


@pytest.fixture
def outermost(monkeypatch):
    """Calls of readers and validators that do not come from within another one, until a training begins."""
    called, within = [], [0]
    originals = {}
    for module in READERS:
        __import__(module)
        for name, function in getmembers(sys.modules[module], isfunction):
            if function.__module__ == module and not name.startswith("_"):
                originals[function] = _counted(function, called, within)
    for module in [module for name, module in sys.modules.items() if name.startswith("soscope_scverse")]:
        for name, found in list(vars(module).items()):
            if isfunction(found) and found in originals:
                monkeypatch.setattr(module, name, originals[found])
    train = SoScope.train

    @wraps(train)
    def trained(self, *args, **kwargs):
        before.extend(called)
        return train(self, *args, **kwargs)

    before = []
    monkeypatch.setattr(SoScope, "train", trained)
    return before


def _counted(function, called, within):
    @wraps(function)
    def counted(*args, **kwargs):
        if not within[0]:
            called.append(f"{function.__module__}.{function.__name__}")
        within[0] += 1
        try:
            return function(*args, **kwargs)
        finally:
            within[0] -= 1

    return counted


def test_input_is_checked_once(section, outermost):
    tl.enhance(section.adata, image=section.image, **QUICK)
    assert 0 < len(outermost) <= MOST_CHECKS, outermost


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_the_image_is_opened_once(section, tmp_path, monkeypatch, suffix):
    path, opened = tmp_path / f"section.{suffix}", []
    Image.fromarray(section.image).save(path)

    def counting(function):
        @wraps(function)
        def counted(file, *args, **kwargs):
            if str(getattr(file, "name", file)) == str(path):
                opened.append(function.__name__)
            return function(file, *args, **kwargs)

        return counted

    class Counted(tifffile.TiffFile):
        def __init__(self, file, *args, **kwargs):
            if str(file) == str(path):
                opened.append("TiffFile")
            super().__init__(file, *args, **kwargs)

    monkeypatch.setattr(tifffile, "TiffFile", Counted)
    monkeypatch.setattr(Image, "open", counting(Image.open))
    tl.enhance(section.adata, image=path, **QUICK)
    assert len(opened) == 1, opened


def test_nothing_of_ours_is_left_on_the_users_object(section, prepared):
    tl.enhance(section.adata, image=section.image, **QUICK)
    assert b"soscope_scverse" not in pickle.dumps(section.adata)
    SoScope.setup_anndata(prepared)
    SoScope(prepared)
    assert b"soscope_scverse" not in pickle.dumps(prepared)


@pytest.fixture
def mdata(section):
    with columns_apart():
        return md.MuData({"rna": section.adata[:, :5].copy(), "prot": section.adata[:, 5:].copy()})


@pytest.mark.parametrize(("args", "kwargs"), [((4, "square"), {}), ((4,), {"n_subspots": 9}), ((), {"no": 1})])
def test_all_containers_have_one_signature(section, mdata, args, kwargs):
    messages = []
    for data in (section.adata, mdata):
        with pytest.raises(TypeError) as error:
            pp.subspots(data, *args, **kwargs)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "subspots" not in mdata.obsm
    np.testing.assert_array_equal(mdata["rna"].obsm["spatial"], section.adata.obsm["spatial"])

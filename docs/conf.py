"""Sphinx configuration: `sphinx-build -W -b html docs docs/_build`."""

import os
import shutil
from importlib.metadata import version as _version
from pathlib import Path

project = "soscope-scverse"
author = "soscope_scverse developers"
copyright = author
version = release = _version("soscope-scverse")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "jupyter_execute", "**.ipynb_checkpoints"]

# Sphinx reads files below docs/ only, so the notebooks are copied there
_here = Path(__file__).parent
_notebooks = _here / "generated" / "tutorials"
shutil.rmtree(_notebooks, ignore_errors=True)
shutil.copytree(_here.parent / "tutorials", _notebooks, ignore=shutil.ignore_patterns(".*"))

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource", "no-value": True}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# what users call is documented in full; pyproject.toml has the rules of all other code
numpydoc_validation_checks = {"GL06", "GL07", "GL08", "SS01", "PR01", "PR02", "PR03", "PR07", "RT01", "RT03", "YD01"}
numpydoc_validation_overrides = {  # methods that refer to that of a base class, which has the parameters
    code: [r"see :meth:`\w+\.\w+`"] for code in ("PR01", "RT01")
}
# fields of named tuples are documented one by one; the others are those of scvi-tools and Lightning
numpydoc_validation_exclude = {
    r"\.(CorrelationAgreement|LowResolution|SyntheticSection|SyntheticComponents)$",
    r"\.SoScope\.(deregister_manager|trainer)$",
}

# the build requires no network; links to other projects are resolved on request
if os.environ.get("READTHEDOCS") or os.environ.get("SOSCOPE_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "lightning": ("https://lightning.ai/docs/pytorch/stable/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "mudata": ("https://mudata.readthedocs.io/en/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "scvi-tools": ("https://docs.scvi-tools.org/en/stable/", None),
    "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
    "squidpy": ("https://squidpy.readthedocs.io/en/stable/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
    "zarr": ("https://zarr.readthedocs.io/en/stable/", None),
}

html_theme = "sphinx_book_theme"
html_title = "soscope-scverse"
html_theme_options = {"navbar_persistent": [], "show_toc_level": 2}  # the search field is in the side bar


def setup(app):
    """Show the signatures of functions rather than their overloads, which tables cannot hold and users do not call."""
    from sphinx.pycode import ModuleAnalyzer

    for module in ("im.reading.opening", "tl._enhance"):
        analyzer = ModuleAnalyzer.for_module(f"soscope_scverse.{module}")
        analyzer.analyze()
        analyzer.overloads.clear()

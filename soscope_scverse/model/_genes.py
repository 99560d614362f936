"""Results of a model for features that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, Literal

from anndata import AnnData
from mudata import MuData

from soscope_scverse import _read as read
from soscope_scverse._containers.mudata import joined, modality
from soscope_scverse._counts import advice_on_counts
from soscope_scverse._validators import check_arguments, check_folder, check_named, check_profiles
from soscope_scverse.model._applied import AppliedModel
from soscope_scverse.model._inputs import Inputs
from soscope_scverse.model._transfer import with_features
from soscope_scverse.model.inference.fitted_heads import FittedHeads
from soscope_scverse.model.inference.gene_blocks import GENES_RULES, Profiles, genes_profiles
from soscope_scverse.model.inference.sampler import Expectation
from soscope_scverse.model.inference.store import output_path
from soscope_scverse.module.likelihoods import count_likelihoods

Genes = Literal["all"] | Sequence[str] | Mapping[str, Literal["all"] | Sequence[str]]
"""Features to enhance; of a MuData by modality."""


class EnhancesGenes(AppliedModel):
    """A model whose latent states can be read out for any features of its spots.

    See scvi-tools' ``BaseModelClass`` for its parameters.
    """

    def enhance_genes(
        self,
        adata: AnnData | MuData,
        genes: Genes = "all",
        *,
        expectation: Expectation | Sequence[Expectation] = ("conditional", "denoised"),
        n_samples: int = 0,
        batch_size: int | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        checkpoint_dir: str | PathLike | None = None,
        out: str | PathLike | None = None,
        overwrite: bool = False,
        uns: Mapping[str, Any] | None = None,
        obsm_keys: Sequence[str] = (),
    ) -> AnnData | MuData:
        """Enhanced profiles for any genes of spots, also for those that the model was not trained on.

        Latent states and the effect of the image are those of the model. Given these, genes are independent of each
        other: the effects of each further gene on the subspots are a linear function of those of the trained genes,
        which is fitted to its counts in `adata`. Mean and covariance of the trained effects are the prior; its scale,
        and with it how far a gene deviates from the pattern of the library size, is decided by the evidence of the
        gene. Genes that the model was trained on are as in :meth:`get_enhanced`.

        Parameters
        ----------
        adata
            Spots with the genes, with the slots and the trained genes that :meth:`get_enhanced` needs: those of the
            model or of any other section.
        genes
            Names out of ``adata.var_names``, or ``"all"``. Of a MuData ``"all"`` or a dict by modality; a modality that
            is not named keeps the features that the model was trained on.
        expectation, n_samples, batch_size
            See :meth:`get_enhanced`.
        dtype
            ``"float16"`` halves the result: three significant digits, values up to 65,504.
        checkpoint_dir
            Folder for the fitted heads, ``heads.pt``: a call that was interrupted fits the remaining genes only, and
            gives the same bits.
        out, overwrite, uns, obsm_keys
            See :meth:`get_enhanced`. The store is written in blocks of 256 genes.

        Returns
        -------
        AnnData or MuData
            See :meth:`get_enhanced`. In addition ``var["trained"]``, whether the latent states were learnt on the gene,
            and ``var["evidence"]``, the log evidence ratio of a pattern of its own to that of the library size: a gene
            with a ratio below about 2 has no pattern that its counts show.

        Raises
        ------
        TypeError, ValueError
            As :meth:`get_enhanced`, or if a gene is not there, or profiles do not fit the likelihood; before any work.
        """
        check_arguments(locals(), GENES_RULES)
        check_named("uns", uns)
        self._check_samples(n_samples)
        if checkpoint_dir is not None:
            check_folder("checkpoint_dir", checkpoint_dir)
        path = output_path(out, self.adata, overwrite=overwrite)
        posterior = self._posterior(adata)
        profiles = chosen_profiles(adata, posterior.inputs, self._likelihoods, genes)
        run = {
            "module": {name: value.cpu().numpy() for name, value in self.module.state_dict().items()},
            "genes": [part.var_names.tolist() for part in profiles.parts],
            "profiles": profiles.x,
            "exposures": posterior.tiles.section.exposure,
        }
        return genes_profiles(
            posterior,
            profiles,
            FittedHeads(checkpoint_dir, run),
            expectation=expectation,
            n_samples=n_samples,
            batch_size=batch_size,
            out=path,
            dtype=dtype,
            uns=uns or {},
            obsm_keys=obsm_keys,
        )


def chosen_profiles(data: AnnData | MuData, inputs: Inputs, likelihoods: Sequence[str], genes: Genes) -> Profiles:
    """Read the features to enhance into memory.

    Parameters
    ----------
    data
        The spots.
    inputs
        The same spots with the features that the model was trained on.
    likelihoods
        Likelihood of every modality.
    genes
        See :meth:`EnhancesGenes.enhance_genes`.

    Raises
    ------
    TypeError, ValueError
        If features are not there, or profiles do not fit the likelihood.
    """
    layer = inputs.manager.registry["setup_args"]["layer"]
    if isinstance(data, AnnData):
        part, x = _part(data, data, layer, genes, likelihoods[0])
        return Profiles(part, [x])
    by_name = dict.fromkeys(inputs.modalities, genes) if genes == "all" else read.by_modality("genes", genes)
    layers, parts, profiles = read.by_modality("layer", layer), {}, []
    for name, likelihood in zip(inputs.modalities, likelihoods, strict=True):
        wanted = by_name.get(name, inputs.data.mod[name].var_names.tolist())
        parts[name], x = _part(modality(data, name), data.mod[name], layers.get(name), wanted, likelihood)
        profiles.append(x)
    return Profiles(joined(parts), profiles)


def _part(adata: AnnData, given: AnnData, layer: str | None, genes: Any, likelihood: str) -> tuple[AnnData, Any]:
    """Chosen features of one modality and their profiles; `given` is what the user has."""
    everything = isinstance(genes, str) and genes == "all"
    part = with_features(adata, adata.var_names.tolist() if everything else read.genes(adata, genes))
    x = read.matrix(part, layer)
    check_profiles(x, likelihood, count_likelihoods(), partial(advice_on_counts, given, layer))
    return part, x

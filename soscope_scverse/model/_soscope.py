"""The user's model class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _read as read
from soscope_scverse._validators import check_arguments, check_named, check_profiles
from soscope_scverse.model._arguments import MODEL_RULES, MODULE_ARGUMENTS
from soscope_scverse.model._genes import EnhancesGenes
from soscope_scverse.model._save_load import SavedModel
from soscope_scverse.model._threads import torch_threads
from soscope_scverse.model.inference.at_positions import PREDICT_RULES, predicted_profiles
from soscope_scverse.model.inference.result import ENHANCED_RULES, SAMPLE_RULES, enhanced_profiles, posterior_samples
from soscope_scverse.model.inference.sampler import Expectation
from soscope_scverse.model.inference.store import output_path
from soscope_scverse.model.training.checkpoints import Checkpoints
from soscope_scverse.model.training.datamodule import TileDataModule
from soscope_scverse.model.training.plan import CosineTrainingPlan
from soscope_scverse.model.training.runner import TRAIN_RULES, train_model
from soscope_scverse.module.likelihoods import LIKELIHOODS, count_likelihoods
from soscope_scverse.module.vae import SoScopeVAE

_SHRINKAGE = 40.0  # of the effect of the image, in spots


class SoScope(EnhancesGenes, SavedModel):
    """soScope: subspot profiles from spot profiles, spatial graph and image (Li et al., Nature Communications 2024).

    Parameters
    ----------
    adata
        Spots, registered by :meth:`setup_anndata`, or :meth:`setup_mudata` for several modalities.
    likelihood
        ``"nb"`` (default) or ``"poisson"`` for counts, ``"gaussian"`` for anything else. Those of a MuData are given to
        :meth:`setup_mudata`.
    n_latent, n_hidden, n_layers
        Dimensions of the latent state, width of the networks, graph-transformer layers of the encoder.
    sources
        What the subspots are inferred from: ``"both"`` spots and image; ``"image"`` alone, without latent states
        (Supplementary Note 5 of the paper); ``"positions"``: spots without the image (Note 6).
    decoder
        ``"shift"``: the image shifts the latent state; ``"joint"``: one network of both, as in the paper.
    interpolation
        ``"gaussian"``: latent states are interpolated to the subspots; ``"none"``: subspots have the latent state of
        their spot, as in the paper.
    bandwidth
        Standard deviation of the interpolation kernel, in centre-to-centre distances.
    observation
        ``"matched"``: the exact likelihood of the sum over a spot; ``"gaussian"``: N(sum, sigma^2), as in the paper.
    sigma
        Standard deviation of the observed spot. Default: 1 with ``observation="gaussian"``, else 0. With ``"matched"``
        only the Gaussian likelihood uses it.
    dispersion
        ``"feature"``: one dispersion per feature, which makes sums exact; ``"subspot"``: one per subspot and feature;
        counts of a spot then match in mean and variance only. ``"shape"``: the same, with the mean of ``"nb"`` as the
        product of two outputs of the decoder, r exp(logit), shape and dispersion, as in the paper.
    aggregate
        Whether a spot is the ``"sum"`` of its subspots (default for counts) or their ``"mean"`` (default for Gaussian).
    image_shrinkage
        Shrinkage of the effect of the image, in spots: a share ``image_shrinkage / (image_shrinkage + n_spots)`` of the
        image features is dropped at every training step, which acts as a ridge penalty of equal strength for any size
        of section. ``"auto"``: 40 with counts; else 40 times the subspots per spot, since dropout that is independent
        between subspots averages out over a spot.
    n_image_components
        Wider image features, as of deep encoders, are reduced to this many principal components.
    image_strength
        Share of the effect of the image that the networks keep in predictions. Below 1/2, only a part of the training
        steps has an image, and the kriged field keeps that part of its effect: none at 0.1. ``"auto"``: the
        probability, given the spots, that the image is informative about the profiles beyond their positions.
    kriging
        Whether predictions are the geometric mean (of other data than counts: the mean) of the networks' and a kriged
        field's, which is linear in the image; False in the paper.
    library_size_noise
        Variance of the log library size of a spot that its position does not explain; ``"auto"`` estimates it. 0
        attributes all differences in library size to the tissue, as in the paper.
    masked
        Share of the spots that is masked in the input of the encoder at every training step; 0 in the paper.
    image_weight
        beta, weight of the image regulariser.
    image_deviation
        What similar subspots share: ``"relative"``, deviations from the predicted spot in units of the typical value of
        a feature, averaged over features; or deviations in the unit of the data, of every modality by itself and with
        all pairs of subspots, from ``"observed"``, the observed spot divided evenly (soScope, Eq. 5), or from
        ``"overall"``, the mean of all subspots (as in the paper's code for cells).
    similarity_strength
        s of the image similarity W: the median pair weighs 1/s of the strongest.
    n_graph_samples
        Nodes sampled by the graph losses at every step; None evaluates them exactly, as in the paper.
    loss_per
        ``"feature"``: spots count per feature, all modalities alike, so that weights are comparable between panels;
        ``"spot"``: log probabilities of all features are added, beside the image regulariser (soScope, Eq. 6).

    Raises
    ------
    TypeError, ValueError
        If the data do not fit the likelihood, or an argument is out of its range.

    Notes
    -----
    As with every model of scvi-tools, the class keeps the spots in memory after ``del model``.
    ``model.deregister_manager(model.adata)`` releases them; the model itself remains usable.

    Examples
    --------
    >>> import soscope_scverse as sos
    >>> adata, image, truth = sos.datasets.synthetic_section()
    >>> sos.pp.subspots(adata)
    >>> sos.pp.spot_graph(adata)
    >>> sos.im.features(adata, image)
    >>> sos.SoScope.setup_anndata(adata)
    >>> model = sos.SoScope(adata)
    >>> model.train()
    >>> enhanced = model.get_enhanced()
    """

    history_: dict[str, pd.DataFrame] | None
    trainer: Any = None
    """Lightning's trainer of the last training."""
    _data_splitter_cls: Any = TileDataModule
    _training_plan_cls: Any = CosineTrainingPlan
    _checkpoints_cls: Any = Checkpoints

    def __init__(
        self,
        adata: AnnData | MuData,
        *,
        likelihood: str | None = None,
        n_latent: int = 32,
        n_hidden: int = 128,
        n_layers: int = 3,
        sources: Literal["both", "image", "positions"] = "both",
        decoder: Literal["shift", "joint"] = "shift",
        interpolation: Literal["gaussian", "none"] = "gaussian",
        bandwidth: float = 0.5,
        observation: Literal["matched", "gaussian"] = "matched",
        sigma: float | None = None,
        dispersion: Literal["feature", "subspot", "shape"] = "feature",
        aggregate: Literal["sum", "mean"] | None = None,
        image_shrinkage: float | Literal["auto"] = "auto",
        n_image_components: int = 128,
        image_strength: float | Literal["auto"] = "auto",
        kriging: bool = True,
        library_size_noise: float | Literal["auto"] = "auto",
        masked: float = 0.3,
        image_weight: float = 1.0,
        image_deviation: Literal["relative", "observed", "overall"] = "relative",
        similarity_strength: float = 2.0,
        n_graph_samples: int | None = 512,
        loss_per: Literal["feature", "spot"] = "feature",
    ) -> None:
        arguments = locals()
        check_arguments(arguments, MODEL_RULES)
        if observation == "gaussian" and sigma == 0:
            msg = "Expected `sigma` above 0 with observation='gaussian', found 0. Omit it for 1, or use 'matched'."
            raise ValueError(msg)
        super().__init__(read.read_data(adata))
        self.init_params_ = self._get_init_params(arguments)
        inputs = self._inputs
        self._likelihoods = inputs.likelihoods(likelihood)
        profiles = inputs.profiles()
        for x, name, advice in zip(profiles, self._likelihoods, inputs.advice_on_counts(), strict=True):
            check_profiles(x, name, count_likelihoods(), advice)
        if sources == "image" and not inputs.features_key:
            msg = "Expected image features for sources='image', found none. Call `im.features(adata, image)` first."
            raise ValueError(msg)
        if image_shrinkage == "auto":
            counts = any(LIKELIHOODS[name].is_counts for name in self._likelihoods)
            image_shrinkage = _SHRINKAGE if counts else _SHRINKAGE * inputs.n_subspots
        self.module = SoScopeVAE(
            [(name, x.shape[1]) for name, x in zip(self._likelihoods, profiles, strict=True)],
            inputs.n_image_features,
            uses_latent=sources != "image",
            feature_dropout=image_shrinkage / (image_shrinkage + adata.n_obs),
            n_batches=len(inputs.batches),
            **{name: arguments[name] for name in MODULE_ARGUMENTS},
        )
        self._model_summary_string = (
            f"SoScope with {', '.join(self._likelihoods)} likelihood, {decoder} decoder, {n_latent} latent dimensions, "
            f"{'an image' if inputs.features_key else 'no image'}."
        )

    def train(
        self,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        batch_size: int = 2048,
        pretrain_epochs: int | None = None,
        train_size: float = 1.0,
        early_stopping: bool = False,
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        kl_weight: float = 1.0,
        accelerator: str = "auto",
        devices: int | str = "auto",
        checkpoint_dir: str | PathLike | None = None,
        resume: bool = False,
        seed: int | None = None,
        threads: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train in two phases: the graph auto-encoder of the spots, then the whole model.

        Ctrl-C in the second phase ends the training after the current step, with a warning: the model keeps its weights
        (the best ones if molecules are held out) and is trained. With `checkpoint_dir`, interrupted training resumes
        bit-for-bit from the last checkpoint on a CPU.

        Parameters
        ----------
        max_epochs, max_steps
            Length of the second phase, in passes over the spots or in steps. Default: 400 steps; with 16 to 128 spots
            100 or 200 if held-out spots are predicted better after these (cross-validation in four folds).
        batch_size
            Largest number of spots on a device at once. Larger sections are partitioned into contiguous tiles, anew in
            every epoch, each with the surroundings that its latent states depend on. A step has as many tiles as make
            2,048 spots, so smaller tiles only save memory.
        pretrain_epochs
            Passes of the first phase; default a sixth of the steps of the second, 0 in a model that was trained before.
        train_size
            Share of the molecules to train on; the others (binomial thinning) are held out for the ``..._validation``
            curves of :attr:`history`.
        early_stopping
            Stop when the validation score no longer improves; needs counts and `train_size` below 1.
        lr, weight_decay
            Learning rate at the start of its cosine schedule, and L2 penalty.
        kl_weight
            Weight of the KL divergence from the prior; 1 is the evidence lower bound.
        accelerator, devices
            As in Lightning. Several devices share the tiles of a step.
        checkpoint_dir
            Folder of the checkpoint, ``checkpoint.pt``, replaced every 30 seconds (or ten steps), and at Ctrl-C.
        resume
            Resume from the checkpoint in `checkpoint_dir` if there is one. It must be that of the same spots and
            arguments; the result of a finished training is loaded.
        seed
            Seed that the caller has set, recorded in the checkpoint: a training with another seed is not resumed.
            Nothing is seeded with it.
        threads
            Threads of torch. Default: as set before (``OMP_NUM_THREADS``), at most the processors of the job.
        **trainer_kwargs
            Of :class:`scvi.train.Trainer`: ``strategy="ddp"``, ``num_nodes=2``, ``precision="bf16-mixed"``, ...

        Raises
        ------
        FloatingPointError
            If the training diverges.
        ValueError
            If arguments are out of range or inconsistent, Lightning refuses one, devices are missing, or the checkpoint
            is not to be resumed, cannot be read or is that of other spots or arguments.
        KeyboardInterrupt
            If Ctrl-C ends the first phase, or is pressed twice.
        """
        arguments = locals()
        check_arguments(arguments, TRAIN_RULES)
        with torch_threads(threads):
            train_model(self, arguments)

    def get_latent_representation(self, adata: AnnData | MuData | None = None) -> np.ndarray:
        """Mean of the latent state q(Z given X, A).

        Parameters
        ----------
        adata
            See :meth:`get_enhanced`.

        Returns
        -------
        numpy.ndarray
            n_spots x n_latent, in the order of the spots.

        Raises
        ------
        TypeError, ValueError
            See :meth:`get_enhanced`.
        """
        return self._posterior(adata).latent_states().mean.cpu().numpy()

    def get_enhanced(
        self,
        adata: AnnData | MuData | None = None,
        *,
        expectation: Expectation | Sequence[Expectation] = ("conditional", "denoised"),
        n_samples: int = 0,
        batch_size: int | None = None,
        out: str | PathLike | None = None,
        overwrite: bool = False,
        uns: Mapping[str, Any] | None = None,
        obsm_keys: Sequence[str] = (),
    ) -> AnnData | MuData:
        """Enhanced profiles of all subspots, in memory or written to disk in pieces.

        Parameters
        ----------
        adata
            Spots of any section, prepared as those of the model, with the same kind of image features; features are
            found by name, and the number of subspots may differ. None takes the spots of the model.
        expectation
            ``"conditional"``: subspots given the spot, to which what was captured adds up (Gaussian data: with `sigma`
            0); ``"denoised"``, for maps: posterior mean of their rates, without the counting noise of the spot;
            ``"decoded"``: from the latent states alone (soScope, Eq. 7). Of several, the first is ``X``.
        n_samples
            Posterior samples of ``X`` for the layers, see :meth:`sample_enhanced`; 0 omits these layers.
        batch_size
            Spots decoded at once, with `out` also those of a chunk. Default: for 5 million values, or 50 with samples.
        out
            ``.zarr`` store or ``.h5ad`` file to write to (not for MuData), for profiles larger than memory. It appears
            when it is complete.
        overwrite
            Replace an existing `out`.
        uns, obsm_keys
            Further entries of ``uns``; tables in ``obsm`` of the spots, n_spots x n_columns, to repeat for subspots.

        Returns
        -------
        AnnData or MuData
            Like the spots, with enhanced profiles, n_targets x n_features float32: subspots of a spot next to each
            other, in the order of the spots. With `out`, ``X``, ``layers`` and ``obsm`` are dask arrays of the file.
        ``X``, ``layers["denoised"]``
            Enhanced profiles; any expectation but the first is the layer of its name.
        ``obs``
            ``spot``, ``subspot``, ``measured`` (the share of the subspot that was captured), ``array_col``,
            ``array_row`` on the fine lattice, and the columns of the spots, those of these names as
            ``"{name}_of_spot"``. Names are those of spot and subspot, or of the cells.
        ``obsm["spatial"]``, ``obsm["image_features"]``, ``obsm["X_soscope"]``
            Positions in pixels; image features with an image; n_targets x n_latent float32, the latent states that are
            decoded: interpolated and, by ``decoder="shift"``, shifted by the image (not with ``sources="image"``).
        ``layers["std"]``, ``layers["q05"]``, ``layers["q95"]``, ``layers["sampled_counts"]``
            With `n_samples`: standard deviation and quantiles of the samples; for counts the first sample given the
            observed spots, integers (as float32), of which what was captured adds up exactly to the spots.
        ``uns["spatial"]``
            That of the spots with the diameter of the subspots.

        Raises
        ------
        TypeError, ValueError
            If an argument is out of its range, `out` cannot be written to, the model is not trained, its loss does not
            measure the dispersions that samples need, or `adata` is not of its kind or lacks an input; before any work.
        """
        check_arguments(locals(), ENHANCED_RULES)
        check_named("uns", uns)
        self._check_samples(n_samples)
        path = output_path(out, self.adata, overwrite=overwrite)
        return enhanced_profiles(self._posterior(adata), expectation, n_samples, batch_size, path, uns or {}, obsm_keys)

    def predict(
        self,
        positions: np.ndarray | pd.DataFrame | AnnData,
        image_features: np.ndarray | None = None,
        exposure: float | np.ndarray | None = None,
        *,
        library_id: str | None = None,
        adata: AnnData | MuData | None = None,
        batch_size: int | None = None,
        out: str | PathLike | None = None,
        overwrite: bool = False,
    ) -> AnnData | MuData:
        """Expected profiles at any positions of a section: cells, a finer partition, the gaps between the spots.

        Latent states are interpolated and, with the image, decoded (soScope, Eq. 7). Nothing is observed at a position,
        so predictions do not add up to spots; for that, partition the spots into other subspots
        (:func:`~soscope_scverse.pp.subspots`) and pass them to :meth:`get_enhanced`.

        Parameters
        ----------
        positions
            n_positions x 2, (x, y) in the pixels of ``obsm["spatial"]``; or a DataFrame with columns ``x`` and ``y``,
            or an AnnData with ``obsm["spatial"]``, whose names and other columns are kept.
        image_features
            n_positions x n_image_features of the kind that the model was trained on, see
            :func:`~soscope_scverse.im.features_at`. Required if the model uses an image.
        exposure
            Share of a spot that a position stands for, one for all or n_positions: counts are those expected for this
            share. Default: that of the mean subspot of the section, 1 / K of a spot without gaps around it. Means
            (``aggregate="mean"``) are invariant to it.
        library_id
            Section of the positions; required if there are several.
        adata, batch_size, out, overwrite
            See :meth:`get_enhanced`; `adata` are the spots of the section, `batch_size` counts positions.

        Returns
        -------
        AnnData or MuData
            n_positions x n_features: ``X``, expected profiles, float32; ``obs`` as given, and the library column;
            ``obsm["spatial"]``, ``obsm["X_soscope"]``, ``var``, ``uns["spatial"]``, and in ``uns["soscope"]`` the
            version and ``library_id``. Positions have the batch of their nearest spot.

        Raises
        ------
        TypeError, ValueError
            As :meth:`get_enhanced`, or if positions, image features or exposures do not fit, or there is no such
            section; before any work.

        Warns
        -----
        UserWarning
            If positions are farther than two centre-to-centre distances from all spots.
        """
        check_arguments(locals(), PREDICT_RULES)
        path = output_path(out, self.adata, overwrite=overwrite)
        posterior = self._posterior(adata)
        return predicted_profiles(posterior, positions, image_features, exposure, library_id, batch_size, path)

    def sample_enhanced(
        self,
        n_samples: int,
        adata: AnnData | MuData | None = None,
        *,
        expectation: Expectation = "conditional",
        batch_size: int | None = None,
        out: str | PathLike | None = None,
        overwrite: bool = False,
    ) -> np.ndarray | zarr.Array:
        """Posterior samples of the profiles of all subspots, in memory or written to disk in pieces.

        A sample is a joint one of the whole section: of the latent states of all spots, of the residuals that neither
        neighbours nor image explain, and of the subspots, given the observed spots exactly (Dirichlet-multinomial,
        multinomial, Gaussian) or not. It is determined by torch's global generator (``scvi.settings.seed``) and
        invariant to the order of the spots and to `batch_size`.

        Parameters
        ----------
        n_samples
            Number of samples.
        adata
            See :meth:`get_enhanced`.
        expectation
            ``"conditional"``: subspots that add up to the observed spots; ``"denoised"``: their rates given the spots;
            ``"decoded"``: given the latent states alone, with a sampled library size of every spot.
        batch_size
            Spots sampled at once; default for 50 million values of all samples, at most five million of one.
        out, overwrite
            ``.zarr`` array to write to, in chunks of one sample each, and whether to replace an existing one.

        Returns
        -------
        numpy.ndarray or zarr.Array
            n_samples x n_targets x n_features, float32, targets and features in the order of :meth:`get_enhanced`
            (modalities of a MuData are concatenated); with `out` the zarr array.

        Raises
        ------
        TypeError, ValueError
            See :meth:`get_enhanced`.
        """
        check_arguments(locals(), SAMPLE_RULES)
        self._check_samples(n_samples)
        path = output_path(out, overwrite=overwrite, suffixes=(".zarr",))
        return posterior_samples(self._posterior(adata), expectation, n_samples, batch_size, path)

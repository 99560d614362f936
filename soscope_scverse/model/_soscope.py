"""The user's model class."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from torch import distributed

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._containers.mudata import split, spots_of
from soscope_scverse._containers.spatialdata import SpatialSpots
from soscope_scverse.model._files import SavedModel
from soscope_scverse.model._inputs import (
    check_profiles,
    modalities_of,
    profile_fields,
    profiles,
    read_section,
    spot_fields,
)
from soscope_scverse.model._serialization import tables
from soscope_scverse.model._tiles import Section, Tiles, thin_counts
from soscope_scverse.model._transfer import like_trained
from soscope_scverse.model.estimates.image_projection import Projection, fit_projection
from soscope_scverse.model.estimates.initialise import set_start, set_variation
from soscope_scverse.model.inference.at_positions import (
    Positions,
    block_positions,
    checked_exposure,
    checked_features,
    fill_positions,
    positions_frame,
    section_rows,
    table,
    warn_far,
)
from soscope_scverse.model.inference.processes import Processes
from soscope_scverse.model.inference.result import (
    SomeRows,
    block_spots,
    fill_profiles,
    fill_samples,
    latent_states,
    places,
    result_frame,
    result_rows,
    with_profiles,
    with_samples,
)
from soscope_scverse.model.inference.sampler import Sampler
from soscope_scverse.model.inference.store import Arrays
from soscope_scverse.model.training.checkpoints import Checkpoints, describe_run
from soscope_scverse.model.training.datamodule import HeldOut, TileDataModule
from soscope_scverse.model.training.runner import TRAINER, Training, check_training
from soscope_scverse.module.likelihoods import LIKELIHOODS
from soscope_scverse.module.vae import SoScopeVAE

if TYPE_CHECKING:
    from spatialdata import SpatialData

MODEL_RULES: dict = {}
TRAIN_RULES: dict = {}
_SHRINKAGE = 40.0  # of the effect of the image, in spots


class SoScope(SavedModel):
    """soScope: subspot profiles from spot profiles, spatial graph and image (Li et al., Nature Communications 2024).

    Parameters
    ----------
    adata
        Spots, registered by :meth:`setup_anndata` or, several modalities of them, by :meth:`setup_mudata`.
    likelihood
        ``"nb"`` (default) or ``"poisson"`` for counts, ``"gaussian"`` for anything else. Those of a MuData are given to
        :meth:`setup_mudata`.
    n_latent, n_hidden, n_layers
        Dimensions of the latent state, width of the networks, graph-transformer layers of the encoder.
    sources
        ``"both"`` spots and image; ``"image"``: profiles of subspots follow from the image alone, as in the
        paper's image soScope (Supplementary Note 5), the latent states are not looked at; ``"positions"``: the image
        is not looked at (Supplementary Note 6).
    decoder
        ``"shift"``: the image shifts the latent state; ``"joint"``: one network over both, as in the paper.
    interpolation
        ``"gaussian"``: latent states are interpolated to the subspots; ``"none"``: a subspot has that of its spot, as
        in the paper.
    bandwidth
        Standard deviation of the interpolation kernel, in distances of neighbouring spots.
    observation
        ``"matched"``: the exact likelihood of the sum over a spot; ``"gaussian"``: N(sum, sigma^2), as in the paper.
    sigma
        Standard deviation of the observed spot. Default 1 with ``observation="gaussian"``, else 0, where only the
        Gaussian likelihood takes it.
    dispersion
        ``"feature"``: one dispersion for every feature, which makes sums exact; ``"subspot"``: one for every subspot
        and feature, as in the paper; counts of a spot then match in mean and variance only.
    aggregate
        Whether a spot is the ``"sum"`` of its subspots (default for counts) or their ``"mean"`` (default for Gaussian).
    image_shrinkage
        How strongly the effect of the image is held back, in spots: a share ``image_shrinkage / (image_shrinkage +
        n_spots)`` of the image features is dropped at every training step, which acts as a ridge penalty of the same
        strength for every size of section. ``"auto"``: 40; without any counts 40 times the subspots of a spot, since
        what is dropped for each subspot by itself averages out over a spot.
    n_image_components
        Image features that are wider, as those of deep encoders are, are reduced to this many principal components.
    test_image
        Leave the image out, with a warning, where the spots give no evidence that it tells of the profiles (a log
        likelihood ratio of at most 4). False always uses it.
    library_size_noise
        Variance of the log depth of a spot that its place does not explain; ``"auto"`` estimates it from the spots.
        0 takes every difference in depth for tissue, as the paper does.
    masked
        Share of the spots that is hidden from the encoder at every training step; the paper hides none.
    image_weight
        beta, weight of the image regulariser.
    similarity_strength
        s of the image similarity W: how much weaker the median pair is than the strongest.
    n_graph_samples
        Nodes sampled by the graph losses at every step; None evaluates them exactly, as in the paper.

    Raises
    ------
    TypeError, ValueError
        If the data do not fit the likelihood or an argument is not one of its choices.

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
        dispersion: Literal["feature", "subspot"] = "feature",
        aggregate: Literal["sum", "mean"] | None = None,
        image_shrinkage: float | Literal["auto"] = "auto",
        n_image_components: int = 128,
        test_image: bool = True,
        library_size_noise: float | Literal["auto"] = "auto",
        masked: float = 0.3,
        image_weight: float = 1.0,
        similarity_strength: float = 2.0,
        n_graph_samples: int | None = 512,
    ) -> None:
        check.given(SoScope.__init__, locals())
        if observation == "gaussian" and sigma == 0:
            msg = "Expected `sigma` above 0 with observation='gaussian', found 0. Leave it out for 1, or use 'matched'."
            raise ValueError(msg)
        check.spots(adata)
        super().__init__(adata)
        weakref.finalize(self, self._per_instance_manager_store.pop, self.id, None)
        self._likelihoods = self._named_likelihoods(likelihood)
        matrices = profiles(self.adata_manager)
        check_profiles(matrices, self._likelihoods)
        modalities = [(name, x.shape[1]) for name, x in zip(self._likelihoods, matrices, strict=True)]
        if image_shrinkage == "auto":
            counts = any(LIKELIHOODS[name].is_counts for name in self._likelihoods)
            n_subspots = np.shape(self.adata_manager.get_from_registry(keys.EXPOSURE))[1]
            image_shrinkage = _SHRINKAGE if counts else _SHRINKAGE * n_subspots
        self._sources = sources
        if sources == "image" and not self._features_key:
            msg = "Expected image features for sources='image', found none. Call `im.features(adata, image)` first."
            raise ValueError(msg)
        self._interpolation = interpolation
        self._bandwidth = bandwidth
        self._similarity_strength = similarity_strength if image_weight else None
        self._test_image = test_image and sources == "both"
        self._library_size_noise = library_size_noise
        self._n_image_components = n_image_components
        self.module = SoScopeVAE(
            modalities,
            np.shape(self.adata_manager.get_from_registry(keys.FEATURES))[-1] if self._features_key else 0,
            n_image_components=n_image_components,
            aggregate=aggregate,
            sigma=sigma,
            dispersion=dispersion,
            observation=observation,
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            decoder=decoder,
            uses_latent=sources != "image",
            feature_dropout=image_shrinkage / (image_shrinkage + adata.n_obs),
            masked=masked,
            image_weight=image_weight,
            n_graph_samples=n_graph_samples,
            n_batches=len(self._batches),
        )
        self._model_summary_string = (
            f"SoScope with {', '.join(self._likelihoods)} likelihood, {decoder} decoder, "
            f"{n_latent} latent dimensions, "
            f"{'an image' if self._features_key else 'no image'}."
        )
        self.init_params_ = self._get_init_params(locals())
        self._seed: int | None = None  # of `tl.enhance`; by hand the state of torch's generator is taken as it is

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        features_key: str | None = keys.FEATURES,
        library_key: str | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell the model where in `adata` its inputs are.

        Parameters
        ----------
        adata
            Spots after :func:`~soscope_scverse.pp.subspots`, :func:`~soscope_scverse.pp.spot_graph` and, with a
            image, :func:`~soscope_scverse.im.features`.
        layer
            Layer that holds the profiles; None is ``X``.
        features_key
            Slot of ``obsm`` with the image features; None, or a slot that is not there, for a model without an image.
        library_key
            Column of ``obs`` that tells the sections.
        batch_key
            Column of ``obs`` that tells the batches, such as slides or donors: each has an effect of its own on every
            feature, and the encoder is told the batch. Spots of a batch that was not trained on count as the average
            of the batches.
        **kwargs
            Of scvi-tools' ``AnnDataManager.register_fields``.

        Raises
        ------
        TypeError, ValueError
            If an input is missing or not of the kind and shape that is expected.
        """
        cls._register(adata, cls._get_setup_method_args(**locals()), kwargs)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modalities: Mapping[str, Literal["nb", "poisson", "gaussian"]],
        layer: Mapping[str, str | None] | None = None,
        features_key: str | None = keys.FEATURES,
        library_key: str | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell the model where in `mdata`, several modalities of the same spots, its inputs are.

        Parameters
        ----------
        mdata
            Spots after :func:`~soscope_scverse.pp.subspots`, :func:`~soscope_scverse.pp.spot_graph` and, with a
            image, :func:`~soscope_scverse.im.features`, whose slots are at the top of it or in a modality.
        modalities
            Likelihood of each modality to model, as ``{"rna": "nb", "prot": "poisson"}``.
        layer
            Layers that hold the profiles, by modality; ``X`` of those that are not named.
        features_key, library_key, batch_key, **kwargs
            As of :meth:`setup_anndata`.

        Raises
        ------
        TypeError, ValueError
            If an input is missing, not of the kind and shape that is expected, or modalities hold different spots.
        """
        cls._register(mdata, cls._get_setup_method_args(**locals()), kwargs)

    @classmethod
    def setup_spatialdata(cls, sdata: SpatialData, table_key: str = "table", **kwargs: Any) -> None:
        """Tell the model where in a table of `sdata` its inputs are; the model then is that of ``sdata[table_key]``.

        Parameters
        ----------
        sdata
            SpatialData after :func:`~soscope_scverse.pp.subspots`, :func:`~soscope_scverse.pp.spot_graph` and, with a
            image, :func:`~soscope_scverse.im.features`.
        table_key
            The table with the profiles.
        **kwargs
            As of :meth:`setup_anndata`. If the table annotates several elements, `library_key` is their column.

        Raises
        ------
        ValueError
            If there is no such table, it annotates nothing, or as :meth:`setup_anndata`.
        """
        spots = SpatialSpots(sdata, table_key=table_key)
        cls.setup_anndata(spots.table, **{"library_key": spots.library_key, **kwargs})

    @classmethod
    def _register(cls, data: AnnData | MuData, setup_method_args: dict[str, Any], kwargs: dict[str, Any]) -> None:
        setup = setup_method_args["setup_args"]
        if setup["features_key"] is not None:
            check.text("features_key", setup["features_key"])
        fields = [*profile_fields(data, setup), *spot_fields(data, setup)]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(data, **kwargs)
        cls.register_manager(manager)
        data._soscope_manager = manager  # see the end of this file

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
        **trainer_kwargs: Any,
    ) -> None:
        """Train in two phases: the graph auto-encoder of the spots, then the whole model.

        Ctrl-C in the second phase ends the training after the running step, with a warning: the model keeps the weights
        that scored best on held-out molecules, or without these the last ones.

        Parameters
        ----------
        max_epochs, max_steps
            Length of the second phase, in passes over the spots or in steps; default 400 steps, whatever the size of
            the section.
        batch_size
            Most spots that a device takes at once. More are cut into contiguous tiles, elsewhere in every epoch; each
            brings the surroundings that its latent states depend on. A step takes as many tiles as make 2,048 spots, so
            smaller tiles save memory and change nothing else.
        pretrain_epochs
            Passes of the first phase; default a sixth of the steps of the second, 0 in a model that is trained on.
        train_size
            Share of the molecules to train on; the others (binomial thinning) give the ``..._validation`` curves of
            :attr:`history`. 1 trains on all of them.
        early_stopping
            Stop when the score of the held-out molecules no longer improves; needs counts and `train_size` below 1.
        lr
            Learning rate at the start; it decays along a cosine.
        weight_decay
            L2 penalty.
        kl_weight
            Weight of the divergence from the prior; 1 is the evidence lower bound.
        accelerator, devices
            As in Lightning. Several devices share the tiles of a step.
        checkpoint_dir
            Folder of a checkpoint of this training, ``checkpoint.pt``, replaced every half a minute or, if that takes
            longer, every ten steps.
        resume
            Go on from the checkpoint in `checkpoint_dir` if there is one, else start. Called with the same spots and
            arguments, a training that was killed at any moment ends, on a CPU, with the same bits as one that was not;
            one that was finished is taken from there.
        **trainer_kwargs
            Further arguments of :class:`scvi.train.Trainer`: ``strategy="ddp"``, ``num_nodes=2``,
            ``precision="bf16-mixed"``, ...

        Raises
        ------
        FloatingPointError
            If the training diverges.
        ValueError
            If `train_size` is not in (0, 1], `batch_size` is below 1, both `max_epochs` and `max_steps` are given,
            nothing is held out for `early_stopping`, devices are not there, Lightning does not know a further argument,
            `resume` has no `checkpoint_dir`, or the checkpoint there is not to be resumed, cannot be read or is that of
            other spots or arguments.
        KeyboardInterrupt
            If Ctrl-C ends the first phase, or is pressed twice.
        """
        arguments, module = locals(), self.module
        check.given(SoScope.train, arguments)
        asked = check_training(arguments, is_counts=module.likelihood.is_counts)
        checkpoints = None
        if checkpoint_dir is not None:
            checkpoints = Checkpoints(checkpoint_dir, describe_run(self, arguments, asked.world_size))
            if checkpoints.finished is not None:
                self._take_over(checkpoints.finished, asked.strategy.root_device)
                return
        starting, order = not self.is_trained_, self._order()
        if starting:
            self._fit_projection(order)
        section, held_out = self._section(order=order), None
        if module.likelihood.is_counts and train_size < 1:
            kept, rest = thin_counts(section.x, train_size, seed=int(torch.randint(2**31, (1,))))
            section, held_out = section._replace(x=kept), HeldOut(rest, (1 - train_size) / train_size)
        if starting:
            set_start(module, section, self._library_size_noise, test_image=self._test_image)
        # W is part of the loss alone, and only with an image that is used
        tiles = self._tiles(section, self._similarity_strength if module.uses_image else None)
        data = TileDataModule(tiles, batch_size, held_out, seed=torch.initial_seed(), n_processes=asked.world_size)
        plan = {"lr": lr, "weight_decay": weight_decay, "kl_weight": kl_weight}
        trainer_kwargs = {**TRAINER, "accelerator": accelerator, "devices": devices} | trainer_kwargs
        training = Training(self, data, plan, trainer_kwargs, checkpoints)
        n_pretrain, n_train = training.lengths(max_epochs, max_steps, pretrain_epochs, starting=starting)
        if n_pretrain:
            training.pretrain(n_pretrain)
        training.train(n_train, early_stopping=early_stopping)
        set_variation(module, section)
        if asked.world_size > 1:  # scvi-tools would put the models of all processes on the first device
            self.to_device(self.trainer.strategy.root_device)
        if held_out is not None:
            module.scale_library_size(1 / train_size)
        if checkpoints is not None and not self.trainer.interrupted and self.trainer.is_global_zero:
            checkpoints.finish(module, self.history_ or {})

    def _take_over(self, finished: Mapping[str, Any], device: torch.device) -> None:
        """Become the model that a finished training left."""
        self.module.load_state_dict(finished["module"])
        self.module.eval()
        self.to_device(device)
        self.history_ = tables(finished["history"])
        self.is_trained_ = True
        torch.set_rng_state(finished["end"])

    def _fit_projection(self, order: np.ndarray) -> None:
        """Learn how image features are standardised and reduced."""
        if not self._features_key:
            return
        get = self.adata_manager.get_from_registry
        valid = np.asarray(get(keys.EXPOSURE)) > 0
        projection = fit_projection(np.asarray(get(keys.FEATURES)), valid, self._n_image_components, order)
        self.module.image_mean.copy_(torch.as_tensor(projection.mean))
        self.module.image_projection.copy_(torch.as_tensor(projection.matrix))

    def get_latent_representation(self, adata: AnnData | MuData | None = None) -> np.ndarray:
        """Mean of the latent state q(Z given X, A).

        Parameters
        ----------
        adata
            Spots of any section, after the same steps as those of the model and with the same kind of image features;
            features are found by name, and the spots may be divided otherwise. None takes the spots of the model.

        Returns
        -------
        numpy.ndarray
            n_spots x n_latent, in the order of the spots.

        Raises
        ------
        ValueError
            If slots, features or image features that the model needs are missing.
        TypeError
            If `adata` is not of the kind that the model was trained on.
        """
        tiles = self._tiles(self._section(self._registered(adata)))
        return latent_states(self.module, tiles, self._processes()).mean.cpu().numpy()

    def get_enhanced(
        self,
        adata: AnnData | MuData | None = None,
        *,
        expectation: Literal["conditional", "decoded"] = "conditional",
        n_samples: int = 0,
        batch_size: int | None = None,
        out: str | PathLike | None = None,
        overwrite: bool = False,
        uns: Mapping[str, Any] | None = None,
    ) -> AnnData | MuData:
        """Enhanced profiles of all subspots, in memory or written to disk piece by piece.

        Parameters
        ----------
        adata
            Spots of any section, after the same steps as those of the model and with the same kind of image features;
            features are found by name, and the spots may be divided otherwise. None takes the spots of the model.
        expectation
            ``"conditional"``: expected subspots given the observed spot; they add up to it (Gaussian data as far as
            `sigma` is 0). ``"decoded"``: expected subspots given the latent state alone (soScope, Eq. 7); smoother, as
            the noise of the spot is not kept.
        n_samples
            Draws of :meth:`sample_enhanced` for the layers ``std``, ``q05``, ``q95`` and ``counts``; 0 leaves them out.
        batch_size
            Spots decoded at once, and with `out` the rows of a chunk are their subspots. Default: as many as make five
            million values, or 50 million with all draws.
        out
            ``.zarr`` store or ``.h5ad`` file to write to (not of a MuData), so that the profiles need not fit into
            memory. It takes its name when it is complete; what an interrupted run leaves is removed.
        overwrite
            Replace what is at `out`.
        uns
            Further entries of ``uns``.

        Returns
        -------
        AnnData or MuData
            As the spots are: n_targets x n_features, subspots of a spot next to each other in the order of the spots.
            With `out`, ``X``, ``layers`` and ``obsm`` are dask arrays of the file.
        ``X``
            Enhanced profiles, float32.
        ``obs``
            ``spot``, ``subspot``, the library column, and ``array_col``, ``array_row`` on the fine lattice. Names are
            those of spot and subspot, or of the cells; spots without cells are left out.
        ``obsm["spatial"]``, ``obsm["image_features"]``
            Positions in pixels; features with an image.
        ``layers["std"]``, ``layers["q05"]``, ``layers["q95"]``
            Standard deviation and quantiles of the draws, with `n_samples`.
        ``layers["sampled_counts"]``
            The first draw given the observed spots, with `n_samples` and counts: integers (as float32) that add up
            exactly to the counts of the spots, for methods that model counts, such as tests of differential expression.
        ``uns["spatial"]``
            That of the spots with the diameter of the subspots.

        Raises
        ------
        ValueError
            If an argument is none of its choices, `out` cannot be written to, or the spots lack what the model needs;
            before any work.
        TypeError
            If `adata` is not of the kind that the model was trained on.
        """
        check.given(SoScope.get_enhanced, locals())
        check.by_name("uns", uns)
        check.no_mudata_on_disk(self.adata, out)
        path = None if out is None else check.output("out", out, overwrite=overwrite)
        manager = self._registered(adata)
        spots = spots_of(manager.adata, modalities_of(manager) or None)
        tiles = self._tiles(self._section(manager))
        features_key = self._features_key if keys.FEATURES in manager.data_registry else None
        frame = result_frame(spots, features_key=features_key, library_key=self._library_key, uns=uns or {})
        size = batch_size or block_spots(tiles, self.module.n_features, n_samples)
        processes = self._processes()
        kept = result_rows(spots)[tiles.section.exposure > 0]
        sampler = self._sampler(manager, tiles, expectation, n_samples, processes)

        def fill(arrays: Arrays) -> None:
            kept_rows = {place: SomeRows(array, kept) for place, array in arrays.items()}
            fill_profiles(kept_rows, sampler, size, processes)

        chunk_rows = size * tiles.section.exposure.shape[1]
        filled = places(n_samples, counts=sampler.samples_counts)
        result = with_profiles(frame, path, filled, chunk_rows, fill, processes)
        return _as_given(result, manager)

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
        """Expected profiles at any positions of a section: cells, a finer division, the gaps between the spots.

        The latent states are interpolated there and, with the image, decoded to the prior expectation (soScope,
        Eq. 7). Nothing is observed at a position, so nothing adds up to a spot; for that, divide the spots otherwise
        (:func:`~soscope_scverse.pp.subspots`) and give them to :meth:`get_enhanced`.

        Parameters
        ----------
        positions
            n_positions x 2, (x, y) in the pixels of ``obsm["spatial"]``; or a DataFrame with columns ``x`` and ``y``,
            or an AnnData with ``obsm["spatial"]``, whose names and other columns are kept.
        image_features
            n_positions x n_image_features of the kind that the model was trained on, as
            :func:`~soscope_scverse.im.features_at` makes them. Needed where the model uses an image.
        exposure
            Share of a spot that a position stands for, one for all or n_positions: counts are those that a piece of
            that share of a spot would have. Default: the mean exposure of the subspots of the section, 1 / K of a
            regular division. Means (``aggregate="mean"``) do not depend on it.
        library_id
            Section that the positions are in; needed where `library_key` tells several.
        adata
            Spots of another section that holds the positions, as for :meth:`get_enhanced`; None takes the spots of the
            model. The latent states are those of these spots.
        batch_size
            Positions decoded at once; default as many as make five million values.
        out, overwrite
            File to write to, as for :meth:`get_enhanced`.

        Returns
        -------
        AnnData or MuData
            n_positions x n_features: ``X``, the expected profiles, float32; ``obs`` as given, and the library column;
            ``obsm["spatial"]``, ``var``, ``uns["spatial"]``, and in ``uns["soscope"]`` the version and ``library_id``.
            Positions belong to the batch of their nearest spot.

        Raises
        ------
        ValueError
            If positions, image features or exposures do not fit, or there is no such section; before any work.
        TypeError
            If `adata` is not of the kind that the model was trained on.

        Warns
        -----
        UserWarning
            If positions are farther than two distances of neighbouring spots from all spots.
        """
        xy = check.xy(positions)
        check.given(SoScope.predict, locals())
        check.no_mudata_on_disk(self.adata, out)
        path = None if out is None else check.output("out", out, overwrite=overwrite)
        manager = self._registered(adata)
        spots = spots_of(manager.adata, modalities_of(manager) or None)
        sections = check.sections(spots, self._library_key)
        rows = section_rows(sections, library_id)
        width = len(self.module.image_mean) if self.module.uses_image else 0
        features = checked_features(image_features, len(xy), width)
        tiles = self._tiles(self._section(manager))
        trained = tiles.section.exposure[rows]
        exposure = checked_exposure(trained[trained > 0].mean() if exposure is None else exposure, len(xy))
        warn_far(tiles.section.spatial[rows], xy)
        obs = table(positions, len(xy))
        if self._library_key is not None:
            obs[self._library_key] = pd.Categorical(sections[rows[:1]].repeat(len(xy)))
        frame = positions_frame(xy, obs, spots, self._library_key)
        size = batch_size or block_positions(self.module.n_features)
        processes = self._processes()
        fill = partial(
            fill_positions,
            module=self.module,
            tiles=tiles,
            positions=Positions(xy, exposure, features, rows),
            projection=self._projection(),
            batch_size=size,
            processes=processes,
        )
        return _as_given(with_profiles(frame, path, places(0), size, fill, processes), manager)

    def sample_enhanced(
        self,
        n_samples: int,
        adata: AnnData | MuData | None = None,
        *,
        expectation: Literal["conditional", "decoded"] = "conditional",
        batch_size: int | None = None,
        out: str | PathLike | None = None,
        overwrite: bool = False,
    ) -> np.ndarray | zarr.Array:
        """Draws of the profiles of all subspots, in memory or written to disk piece by piece.

        A draw is one of the latent states of all spots, of the residuals that neither the neighbours nor the image
        tell, and then of the subspots: given the observed spots exactly (Dirichlet-multinomial, multinomial, Gaussian)
        or from the prior. It is one draw of the whole section. The state of torch's global generator decides it
        (``scvi.settings.seed``); the order of the spots and `batch_size` do not matter.

        Parameters
        ----------
        n_samples
            Number of draws.
        adata
            As for :meth:`get_enhanced`.
        expectation
            ``"conditional"``: subspots given the observed spots, to which they add up; ``"decoded"``: given the latent
            states alone, with a depth of every spot.
        batch_size
            Spots drawn at once; default as many as make 50 million values with all draws.
        out
            ``.zarr`` array to write to, in chunks of one draw each, so that the draws need not fit into memory.
        overwrite
            Replace what is at `out`.

        Returns
        -------
        numpy.ndarray or zarr.Array
            n_samples x n_targets x n_features, float32, targets and features in the order of :meth:`get_enhanced`
            (modalities of a MuData side by side); with `out` the zarr array.

        Raises
        ------
        ValueError
            If an argument is none of its choices, `out` cannot be written to, or the spots lack what the model needs;
            before any work.
        TypeError
            If `adata` is not of the kind that the model was trained on.
        """
        check.given(SoScope.sample_enhanced, locals())
        check.number("n_samples", n_samples, 1)
        path = None if out is None else check.output("out", out, overwrite=overwrite, suffixes=(".zarr",))
        manager = self._registered(adata)
        tiles = self._tiles(self._section(manager))
        size = batch_size or block_spots(tiles, self.module.n_features, n_samples)
        processes = self._processes()
        kept = result_rows(spots_of(manager.adata, modalities_of(manager) or None))[tiles.section.exposure > 0]
        sampler = self._sampler(manager, tiles, expectation, n_samples, processes)

        def fill(array: Any) -> None:
            fill_samples(SomeRows(array, kept), sampler, size, processes)

        shape = n_samples, int(kept.sum()), self.module.n_features
        return with_samples(shape, path, size * tiles.section.exposure.shape[1], fill, processes)

    def _sampler(
        self, manager: AnnDataManager, tiles: Tiles, expectation: str, n_samples: int, processes: Processes
    ) -> Sampler:
        """What the model says of a section; torch's global generator, that of the first process, seeds the draws."""
        seed = np.zeros(1, dtype=np.int64)
        if n_samples:
            seed[:] = torch.randint(2**62, (1,)).item()
            processes.from_first(seed)
        return Sampler(
            self.module,
            tiles,
            latent_states(self.module, tiles, processes),
            self._order(manager),
            n_samples=n_samples,
            given=expectation == "conditional",
            seed=int(seed[0]),
        )

    def release(self) -> None:
        self._setup_adata_manager_store.pop(self.adata_manager.adata_uuid, None)

    def _processes(self) -> Processes:
        """Those that trained this model, as long as they are together."""
        together = self.trainer is not None and self.trainer.world_size > 1 and distributed.is_initialized()
        return Processes.of_group(self.device) if together else Processes()

    def _tiles(self, section: Section, similarity_strength: float | None = None) -> Tiles:
        """The section as batches; the image similarity is part of the loss, so only training asks for it."""
        return Tiles(
            section,
            interpolation=self._interpolation,
            bandwidth=self._bandwidth,
            similarity_strength=similarity_strength,
            n_hops=len(self.module.encoder.layers),
        )

    def _named_likelihoods(self, likelihood: str | None) -> list[str]:
        """Likelihood of every modality."""
        modalities = modalities_of(self.adata_manager)
        if modalities and likelihood is not None:
            msg = f"Expected no `likelihood` beside those given to `setup_mudata`, found {likelihood!r}. Leave it out."
            raise ValueError(msg)
        return list(modalities.values()) or [likelihood or "nb"]

    @property
    def _features_key(self) -> str | None:
        """Slot of the image features that the model looks at."""
        registry = self.adata_manager.data_registry
        if self._sources == "positions":
            return None
        return registry[keys.FEATURES].attr_key if keys.FEATURES in registry else None

    @property
    def _library_key(self) -> str | None:
        return self.registry["setup_args"]["library_key"]

    @property
    def _batches(self) -> Sequence[str]:
        """Batches that were trained on; none without a covariate."""
        fields = self.registry["field_registries"]
        return fields[REGISTRY_KEYS.BATCH_KEY]["state_registry"]["batches"] if REGISTRY_KEYS.BATCH_KEY in fields else []

    def _registered(self, adata: AnnData | MuData | None) -> AnnDataManager:
        """Registry of the model's spots, or of others in the form of these; what it holds of others is a copy."""
        check.trained(self.is_trained_)
        if adata is None or adata is self.adata:
            self._validate_anndata(self.adata)
            return self.adata_manager
        setup = self.registry["setup_args"]
        spots = like_trained(adata, self.adata, setup, needs_features=bool(self.module.uses_image))
        fields = [*profile_fields(spots, setup), *spot_fields(spots, setup)]
        trained_on = {field.registry_key for field in self.adata_manager.fields}
        fields = [field for field in fields if field.registry_key in trained_on]
        manager = AnnDataManager(fields=fields, setup_method_args={"setup_args": setup})
        manager.register_fields(spots, self.registry)
        check_profiles(profiles(manager), self._likelihoods)
        return manager

    def _order(self, manager: AnnDataManager | None = None) -> np.ndarray:
        """Spots by name: training and draws do not depend on the order of the rows, random numbers included."""
        names = (self.adata_manager if manager is None else manager).adata.obs_names
        return np.argsort(names.to_numpy(str), kind="stable")

    def _section(self, manager: AnnDataManager | None = None, order: np.ndarray | None = None) -> Section:
        """What the model knows of the spots, in this order; image features as the networks see them."""
        manager = self.adata_manager if manager is None else manager
        rows = np.arange(manager.adata.n_obs) if order is None else order
        # a section needs no image features where the image was left out
        seen = self._features_key is not None and keys.FEATURES in manager.data_registry
        return read_section(manager, rows, self._projection() if seen else None, self._batches)

    def _projection(self) -> Projection:
        """How image features become those that the networks see."""
        return Projection(self.module.image_mean.cpu().numpy(), self.module.image_projection.cpu().numpy())


# scvi-tools keeps every AnnData that was ever set up; here the AnnData keeps its manager, so that both can go together
SoScope._setup_adata_manager_store = weakref.WeakValueDictionary()


def _as_given(result: AnnData, manager: AnnDataManager) -> AnnData | MuData:
    """A result of several modalities as a MuData."""
    return split(result, manager.adata, modalities_of(manager)) if isinstance(manager.adata, MuData) else result

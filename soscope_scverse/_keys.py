"""Names of every slot that the package reads or writes (DESIGN.md, section 4)."""

SPATIAL = "spatial"
"""``obsm``: n_spots x 2 positions (x, y) in full-resolution pixels; ``uns``: images and scale factors."""

SUBSPOTS = "subspots"
"""``obsm``: n_spots x n_subspots x 2 positions, NaN = padding; ``uns``: geometry of the partition."""

EXPOSURE = "subspot_exposure"
"""``obsm``: n_spots x n_subspots shares of what the spot captured, rows sum to 1; 0 = padding, or in a gap."""

MEASURED = "subspot_measured"
"""``obsm``: n_spots x n_subspots shares of the subspots that were captured, 1 where spots tile the tissue."""

AREA = "subspot_area"
"""``obsm``: n_spots x n_subspots areas relative to what the spot captured; with cells of different areas in gaps."""

FEATURES = "subspot_features"
"""``obsm``: n_spots x n_subspots x n_image_features; ``uns``: encoder and its arguments."""

SUBSPOT_NAMES = "subspot_names"
"""``obsm``: n_spots x n_subspots names of the cells, "" = no cell; only with cells."""

RELATIVE_CELL_NUMBER = "relative_cell_number"
"""``obs``: number (or area) of the cells in a spot relative to the mean spot; 1 if absent."""

SPOT_GRAPH = "spot_graph"
"""``obsp``: n_spots x n_spots weighted neighbour graph of the spots."""

LATENT = "X_soscope"
"""``obsm``: n_spots x n_latent mean of the latent state."""

IMAGE_FEATURES = "image_features"
"""``obsm`` of a result: n_targets x n_image_features."""

SPOT = "spot"
"""``obs`` of a result: name of the spot that holds the subspot."""

SUBSPOT = "subspot"
"""``obs`` of a result: number of the subspot in its spot."""

MEASURED_SHARE = "measured"
"""``obs`` of a result: share of the subspot that was captured."""

IMAGE_GAIN = "image_gain"
"""``var`` of a result: share of the variance of the kriged field that the image explains."""

WEAK_IMAGE = 0.1
"""Strength of the image up to which no training step uses it: a run warns, and its report states it."""

SAMPLED_COUNTS = "sampled_counts"
"""``layers`` of a result: one random posterior sample, integers whose captured part adds up to the observed spots."""

DENOISED = "denoised"
"""``layers`` of a result: posterior mean of the rates, beside conditional profiles in ``X``."""

STD, Q05, Q95 = "std", "q05", "q95"
"""``layers`` of a result: standard deviation and quantiles of the posterior samples."""

RESULT = "soscope"
"""``uns`` of a result: everything needed to reproduce it."""

TRAINED = "trained"
"""``var`` of a result of all genes: whether the latent states were learnt on the gene."""

EVIDENCE = "evidence"
"""``var`` of a result of all genes: log evidence ratio of a pattern of its own to that of the library size."""

VALIDATION = "validation"
"""``uns``: summary of a validation; first part of its names in ``var``."""

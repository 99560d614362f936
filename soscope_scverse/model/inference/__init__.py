"""From a trained module to the profiles of the subspots."""

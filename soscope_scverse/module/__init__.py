"""The networks and likelihoods of soScope; they know tensors only."""

"""The networks and likelihoods of soScope, functions of tensors only."""

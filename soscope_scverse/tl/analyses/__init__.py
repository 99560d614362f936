"""Analyses of the paper: each takes sections and returns a table, which a function of `pl` draws."""

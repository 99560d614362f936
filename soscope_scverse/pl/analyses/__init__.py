"""Plots of the analyses of the paper, each of the table that a function of `tl` or `bench` returns."""

"""Encoders of the histology image."""

"""Cells as users have them, in label masks, files and tables, read as outlines or positions."""

"""Reading of files of spots and of what instruments write."""

from soscope_scverse._io.reading import read

__all__ = ["read"]

"""AnnData, MuData and SpatialData: how the spots in them are found, and how results get back."""

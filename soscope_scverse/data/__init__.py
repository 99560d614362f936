"""From an AnnData to batches."""

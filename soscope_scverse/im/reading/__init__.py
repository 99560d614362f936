"""Opens images of every kind and reads them in part."""

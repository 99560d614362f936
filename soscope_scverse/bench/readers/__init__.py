"""Results of other tools, read into the rows of the subspots, so that `bench.compare` scores them."""

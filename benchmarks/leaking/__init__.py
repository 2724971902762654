"""Parts of `benchmarks.leakage`: what an update shows of the images that it is made of."""

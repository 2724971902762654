"""What a training step costs, where its time goes, and what was tried: the rooms of `benchmarks.step_time`."""

"""Faults of sensors and lines on real images, and what they do to a federation: `python -m benchmarks.faults`."""

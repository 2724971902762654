"""Attacks on a federation, and what each defence makes of them; the command is `python -m benchmarks.attacks`."""

"""Secure aggregation at the server: sittings among the sites of a round, and what is made of their masked updates."""

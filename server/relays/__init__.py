"""Servers that are sites of other servers."""

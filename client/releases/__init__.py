"""Releases at a line: fetched, measured, used."""

"""Backing a server's folder up while it runs, and making one of a backup."""

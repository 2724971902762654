"""Local training, plain and private, and what of it stays at the site."""

"""Federations that are not over our link: in one process, on Ray, on Flower's own grids."""

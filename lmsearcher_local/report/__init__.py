"""A search on one page."""

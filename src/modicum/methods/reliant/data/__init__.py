"""Graphs from data sets and from tables of one's own, and what is to be known of them."""

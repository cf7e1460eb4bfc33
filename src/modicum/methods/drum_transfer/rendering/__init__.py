"""Grooves to see and to hear."""

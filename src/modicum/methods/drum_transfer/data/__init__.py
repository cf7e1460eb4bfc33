"""Where grooves come from."""

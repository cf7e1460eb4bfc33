"""Vision transformers, and what stands on them."""

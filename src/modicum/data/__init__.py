"""Sets of samples, folders of them, and batches."""

"""What every training loop shares: the run folder, devices, randomness, checkpoints, progress."""

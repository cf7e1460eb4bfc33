"""What writes grooves."""

"""What can be measured of grooves."""

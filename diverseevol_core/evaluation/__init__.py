"""What is measured of a checkpoint and of a selection."""

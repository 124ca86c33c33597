"""Everything that knows the method and nothing of orchestrators, trackers or the environment."""

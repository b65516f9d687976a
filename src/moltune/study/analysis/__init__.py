"""What the runs of a study show."""

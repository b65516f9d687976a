"""What makes a tuned model: the loop, its schedule and precision, resuming, the refit of the head, whole runs."""

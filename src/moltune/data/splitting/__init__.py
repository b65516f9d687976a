"""Training, validation and test parts, and what one part knows of another."""

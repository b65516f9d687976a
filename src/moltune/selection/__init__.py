"""What is in external data, and which of its molecules to add."""

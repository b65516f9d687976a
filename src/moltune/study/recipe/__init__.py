"""What is to be compared: the recipe and the protocol."""

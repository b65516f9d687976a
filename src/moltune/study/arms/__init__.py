"""What can be compared: the contract of an arm, the registry, and the kinds."""

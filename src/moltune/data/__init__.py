"""From a file to clean molecules, splits and descriptors."""

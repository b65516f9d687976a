"""From a file, a table or a data set to raw rows, and back to files."""

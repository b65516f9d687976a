"""From raw rows to clean, unique molecules."""

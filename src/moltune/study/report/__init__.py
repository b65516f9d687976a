"""A study for its readers: page, text, figures."""

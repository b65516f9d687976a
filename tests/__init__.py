"""Tests; a package, so that tests/datasets does not pass for the library of that name."""

"""From out-of-fold predictions to intervals that hold what they promise, and how well they do."""

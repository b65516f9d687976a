"""How sure a tuned model is of each prediction."""

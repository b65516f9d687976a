"""Predictions and embeddings of files of any length: piece by piece, on several processes, restartable."""

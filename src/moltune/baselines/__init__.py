"""What a language model has to beat, fitted and stored."""

"""Ready-made models: properties that can be predicted without training anything."""

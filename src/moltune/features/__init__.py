"""What turns molecules into fixed numbers: descriptors, fingerprints, MiniMol, embeddings, ionisation."""

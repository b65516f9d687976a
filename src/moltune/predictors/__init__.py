"""Everything that predicts, behind one contract: language models, probes, blends; loading and saving."""

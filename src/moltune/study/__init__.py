"""The study engine: honest comparisons of any arms over the same splits and seeds, resumable at any kill."""

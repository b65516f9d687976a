"""What learns without labels: pretraining from a corpus, and adaptation, which continues it on a task's molecules."""

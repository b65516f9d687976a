"""What learns without labels: corpus, objectives, teacher, the loop, pretraining and adaptation."""

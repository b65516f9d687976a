"""The molecules to pretrain on: where they come from, what is left out, how they are kept and tokenised."""

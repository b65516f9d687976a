"""``python -m moltune``."""

from moltune.cli.app import main

if __name__ == "__main__":
    main()

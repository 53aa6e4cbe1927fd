"""``python -m sparsecode`` is the command ``sparsecode``."""

from sparsecode.cli import main

if __name__ == "__main__":
    main()

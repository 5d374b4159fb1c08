"""``python -m rawkit.cli``."""

from rawkit.cli import main

if __name__ == "__main__":
    main()

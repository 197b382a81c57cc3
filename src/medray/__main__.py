"""``python -m medray``: the same as ``medray``."""

from medray.cli.main import main

if __name__ == "__main__":
    main()

"""``python -m pytest_tenpak``: the ``tenpak`` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m pytest_tenpak``: the ``tenpak`` command."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

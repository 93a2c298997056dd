"""``python -m tachograph`` is the same as the command ``tachograph``."""

from .agent.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""Start a generation: `python launch.py --help`. @hydra.main is in ltx2/app/main.py."""

from ltx2.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

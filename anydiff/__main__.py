"""`python -m anydiff`: the same as `anydiff`."""

from anydiff.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m raycol`: the same as `raycol`, for an interpreter whose scripts are not on the PATH."""

from raycol.cli import main

if __name__ == "__main__":
    main()

"""`python -m fusekit`."""

from fusekit.cli.main import main

if __name__ == "__main__":
    main()

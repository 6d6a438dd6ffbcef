"""`python -m ftvm` is the command line."""

from ftvm.cli.main import main

if __name__ == "__main__":
    main()

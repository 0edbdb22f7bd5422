"""`python -m hwpass`."""

from hwpass.cli import main

if __name__ == "__main__":
    main()

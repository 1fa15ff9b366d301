"""`python -m kwarmup` is the command `kwarmup`."""

from kwarmup.cli import main

if __name__ == "__main__":
    main(prog_name="kwarmup")

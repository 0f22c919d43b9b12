"""`python -m falloff`, and the console command `falloff`."""

import sys


def main() -> None:
    """Run the command line, or print which package it lacks."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"falloff: the command line needs {error.name}: pip install 'falloff[cli]'", file=sys.stderr)
        sys.exit(2)
    from falloff.cli import run

    run()


if __name__ == "__main__":
    main()

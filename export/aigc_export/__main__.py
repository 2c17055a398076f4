"""`python -m aigc_export` is `aigc-export`."""

from aigc_export.cli import main

if __name__ == "__main__":
    main()

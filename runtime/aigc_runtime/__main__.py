"""`python -m aigc_runtime` is `aigc-run`."""

from aigc_runtime.cli.main import main

if __name__ == "__main__":
    main()

"""The command line `aigc-run`."""

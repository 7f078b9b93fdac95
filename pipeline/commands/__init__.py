"""The commands of `tgo`, one module for each group; `pipeline/cli.py` puts them together."""

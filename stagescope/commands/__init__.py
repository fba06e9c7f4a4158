"""What the command line does: words to parsers to commands. cli.py calls them."""

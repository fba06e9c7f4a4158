"""An answer as a file: one module a format, each a function from an Answer to bytes. formats.py is the table of them."""

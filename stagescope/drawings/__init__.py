"""Numbers as pictures: in cells of a terminal, and as SVG."""

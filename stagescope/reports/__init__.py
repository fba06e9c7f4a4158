"""What the engine found, as text, JSON and numbers: one file a kind of answer."""

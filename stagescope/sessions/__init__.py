"""What a session is (events.py), where it lies (files.py), which numbers it keeps (short.py), how it is run again
(replay.py). Nothing here knows of a screen."""

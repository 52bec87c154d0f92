"""Models on disk: what identifies them, how they are read, and tiny ones to try things with."""

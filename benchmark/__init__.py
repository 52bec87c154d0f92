"""Reelnet's benchmark."""

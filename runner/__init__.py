"""Reelnet's runner."""

"""Reelnet's broadcaster."""

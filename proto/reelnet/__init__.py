"""The contract that every Reelnet component shares."""

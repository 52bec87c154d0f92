"""Reelnet's orchestrator."""

"""The versions of the journal's schema."""

"""The versions of the node's schema."""

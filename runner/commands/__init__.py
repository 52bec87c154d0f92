"""The subcommands of `runner`, and how they end."""

"""The commands of `orchestrator`, by what an operator is doing."""

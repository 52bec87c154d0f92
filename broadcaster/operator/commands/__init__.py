"""The commands of `broadcaster`, by what an operator is doing."""

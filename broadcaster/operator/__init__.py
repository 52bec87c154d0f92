"""How a broadcaster is operated: its commands, and what they ask of a running one."""

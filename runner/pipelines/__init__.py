"""Model families: each turns a job's parameters into one diffusers call per output."""

"""How a running component is operated: its control socket, reloads, and the doctor, the same for each."""

"""How requests share an execution: what a backlog costs, and which batch is cut from its head."""

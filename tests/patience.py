"""How long a test waits for another thread or process before it counts as hung: no measure of speed."""

PATIENCE = 300.0

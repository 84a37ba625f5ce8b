"""From replies to figures, tables and pictures."""

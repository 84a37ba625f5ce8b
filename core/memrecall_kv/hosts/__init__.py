"""What every adapter to a host framework shares."""

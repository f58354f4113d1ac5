"""What scripts/install-host is made of: steps, each of which knows whether it is done."""

"""What leaves this machine: bundles."""

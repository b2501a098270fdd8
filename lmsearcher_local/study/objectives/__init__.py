"""What is optimised, and the process that it runs in."""

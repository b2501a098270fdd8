"""What was evaluated before: studies, folders and files, read."""

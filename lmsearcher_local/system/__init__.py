"""What the machine offers: folders, documents, signals, threads, versions."""

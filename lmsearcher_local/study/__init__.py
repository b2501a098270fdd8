"""A search that is stored, evaluated and resumed."""

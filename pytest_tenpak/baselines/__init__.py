"""The baseline: its entries, file format, identity, names and history. Pure except for file access."""

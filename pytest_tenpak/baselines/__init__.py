"""The baseline: its entries, file format, identity, names and past. Pure but for the files themselves."""

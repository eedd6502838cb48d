"""What is measured, as plain records, and how sure a figure is. Pure: no files, no torch."""

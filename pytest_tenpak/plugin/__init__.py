"""Everything that pytest calls."""

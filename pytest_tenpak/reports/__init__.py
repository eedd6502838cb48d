"""Outcomes and changes of baselines, as text, Markdown, HTML, JSON and annotations. No pytest, no torch."""

"""Data: Hub id or local folder -> Splits."""

"""One application under load, and one fault after the other: what it may cost, and what it must not."""

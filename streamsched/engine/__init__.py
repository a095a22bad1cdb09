"""The shell around the core: group membership, reading, transactions, recovery."""

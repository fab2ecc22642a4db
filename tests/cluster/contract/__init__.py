"""What the contract test gives to schemathesis: its settings, and how to write two media types."""

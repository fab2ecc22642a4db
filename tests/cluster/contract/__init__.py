"""What the contract test gives to schemathesis: its settings, and how to write media types other than JSON."""

"""Every figure that the documentation gives, and how it was measured. Outside: nothing imports it."""

"""A device's own agent: it takes what the fleet's keys have signed, tries it, and keeps it or takes it back."""

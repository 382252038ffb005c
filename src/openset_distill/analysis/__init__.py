"""What networks make of mixed images, and where their features put knowns and unknowns."""

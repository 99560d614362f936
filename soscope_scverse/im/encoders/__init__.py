"""Image encoders: statistics of colour, stain and texture, pretrained networks, and functions or modules."""

"""Training through scvi-tools and Lightning."""

"""A page in the browser on which a person tries vectors out."""

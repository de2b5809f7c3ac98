"""The OpenAI API over the models of `inference`."""

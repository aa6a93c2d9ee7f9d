"""What the head-end's operator uses: a JSON API with its own token, and the client behind the command line."""

"""The operator's access to the head-end: a JSON API, web pages, and the client behind the command line."""

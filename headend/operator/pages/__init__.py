"""The templates and the style of the operator's pages."""
